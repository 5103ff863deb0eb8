// node reader.mjs MODULES JOBS.json ANSWERS.json: run files in onnxruntime-web, which is WebAssembly, with one thread.
//
// A job: models (paths), input (name), values (a file of float32) with dims, runs. All models get the same values and
// run in turns. The answer of a job: load time of each model, outputs of each, times of each run.
// With the word --explain behind, onnxruntime says on the console which groups of nodes become integer kernels.

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, path, answers, explain] = process.argv.slice(2);
const find = createRequire(`${modules}/none.js`);
const runtime = await import(pathToFileURL(find.resolve('onnxruntime-web').replace(/\.min\.js$/, '.min.mjs')));
runtime.env.wasm.numThreads = 1;
runtime.env.logLevel = explain ? 'verbose' : 'error';
const options = { executionProviders: ['wasm'], logSeverityLevel: explain ? 0 : 3 };

const found = [];
for (const job of JSON.parse(readFileSync(path))) {
    const values = new Float32Array(new Uint8Array(readFileSync(job.values)).buffer);
    const feeds = { [job.input]: new runtime.Tensor('float32', values, job.dims) };
    const sessions = [], load = [], outputs = [], times = job.models.map(() => []);
    for (const model of job.models) {
        const bytes = readFileSync(model);
        const start = performance.now();
        sessions.push(await runtime.InferenceSession.create(bytes, options));
        load.push(performance.now() - start);
    }
    for (const session of sessions) {
        const result = await session.run(feeds);
        outputs.push(Object.fromEntries(session.outputNames.map((name) => [name, Array.from(result[name].data)])));
    }
    for (let turn = -2; turn < job.runs; turn++) {
        for (const [at, session] of sessions.entries()) {
            const start = performance.now();
            await session.run(feeds);
            if (turn >= 0) times[at].push(performance.now() - start);
        }
    }
    for (const session of sessions) await session.release();
    found.push({ load, outputs, times });
}
writeFileSync(answers, JSON.stringify({ version: runtime.env.versions.web, node: process.version.slice(1), found }));
