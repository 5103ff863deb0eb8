/* Lets a process see an x86 CPU with AVX2 and without AVX-512, VNNI and AMX. Loaded by tools/bench/older_cpu.py.
 *
 * Linux makes the instruction CPUID fault in threads that ask for it (arch_prctl, ARCH_SET_CPUID) on CPUs that have
 * cpuid_fault. The handler runs the real instruction and clears the bits. Programs that choose kernels by CPUID, as
 * onnxruntime, PyTorch and OpenBLAS do, then choose those of an older CPU; nothing is emulated, so times are real.
 * Threads and forked processes inherit the setting, and a new program sets it again, since LD_PRELOAD stays in the
 * environment. Reads of /proc/cpuinfo go to the file named in LAMPQ_CPUINFO.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

/* Bits of leaf 7 as in Intel's manual, volume 2A, CPUID. */
#define AVX512_EBX ((1u << 16) | (1u << 17) | (1u << 21) | (1u << 26) | (1u << 27) | (1u << 28) | (1u << 30) | (1u << 31))
#define AVX512_ECX ((1u << 1) | (1u << 6) | (1u << 11) | (1u << 12) | (1u << 14))
#define AVX512_AMX_EDX ((1u << 2) | (1u << 3) | (1u << 8) | (1u << 22) | (1u << 23) | (1u << 24) | (1u << 25))
/* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA; AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10. */
#define NEWER_1_EAX ((1u << 4) | (1u << 5) | (1u << 21) | (1u << 23))
#define NEWER_1_EDX ((1u << 4) | (1u << 5) | (1u << 8) | (1u << 10) | (1u << 19))
/* Extended states of AVX-512 and AMX in leaf 0xD. */
#define NEWER_STATES ((7u << 5) | (3u << 17))

static void fault_on_cpuid(int fault) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, fault ? 0 : 1); }

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)info;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)registers[REG_RIP];
    if (at[0] != 0x0F || at[1] != 0xA2) {
        signal(number, SIG_DFL); /* a fault of the program's own: it happens again, and ends the process */
        return;
    }
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
    fault_on_cpuid(0);
    __cpuid_count(leaf, part, a, b, c, d);
    fault_on_cpuid(1);
    if (leaf == 7 && part == 0) {
        b &= ~AVX512_EBX;
        c &= ~AVX512_ECX;
        d &= ~AVX512_AMX_EDX;
    } else if (leaf == 7 && part == 1) {
        a &= ~NEWER_1_EAX;
        d &= ~NEWER_1_EDX;
    } else if (leaf == 0xD && part == 0) {
        a &= ~NEWER_STATES;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGSEGV, &action, NULL) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fprintf(stderr, "hide_instructions: CPUID does not fault here\n");
        _exit(125);
    }
}

/* 1 where the instruction shows none of AVX512F, AVX512-VNNI, AVX-VNNI and AMX-INT8, and AVX2. */
int instructions_hidden(void)
{
    unsigned a, b, c, d, newer;
    __cpuid_count(7, 1, a, b, c, d);
    newer = a & (1u << 4);
    __cpuid_count(7, 0, a, b, c, d);
    return (b & (1u << 5)) && !newer && !(b & (1u << 16)) && !(c & (1u << 11)) && !(d & (1u << 25));
}

static const char *place(const char *path)
{
    const char *instead = getenv("LAMPQ_CPUINFO");
    return instead && path && !strcmp(path, "/proc/cpuinfo") ? instead : path;
}

/* lscpu opens "cpuinfo" below the folder /proc. */
static const char *place_below(int folder, const char *path)
{
    char link[64], target[16] = "";
    if (!path || strcmp(path, "cpuinfo")) return place(path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    if (readlink(link, target, sizeof target - 1) < 0 || strcmp(target, "/proc")) return path;
    return place("/proc/cpuinfo");
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        static int (*real)(const char *, int, ...); \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        MODE(flags) \
        return real(place(path), flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) \
    { \
        static int (*real)(int, const char *, int, ...); \
        if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        MODE(flags) \
        return real(folder, place_below(folder, path), flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

/* What open becomes where the source was compiled with checks. */
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int folder, const char *path, int flags) { return openat(folder, path, flags); }
int __openat64_2(int folder, const char *path, int flags) { return openat64(folder, path, flags); }

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) \
    { \
        static FILE *(*real)(const char *, const char *); \
        if (!real) real = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name); \
        return real(place(path), mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)
