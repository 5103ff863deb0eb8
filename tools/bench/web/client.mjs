// Load both files of a package in transformers.js, and answer and time the images: the same code in Node and in a page.

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

// library: the module. read: gives the bytes of a file of the job. job: names and counts, see __main__.py.
export async function measure(library, read, job) {
    const { AutoModelForImageClassification, Tensor, pipeline } = library;
    const pixels = new Float32Array(await read(job.tensors));
    const [count, ...shape] = job.shape;
    const size = pixels.length / count;
    const input = (index) =>
        ({ pixel_values: new Tensor('float32', pixels.slice(index * size, (index + 1) * size), [1, ...shape]) });
    const open = (options) =>
        AutoModelForImageClassification.from_pretrained(job.model, { session_options: job.session, ...options });

    const loads = Object.fromEntries(job.dtypes.map((dtype) => [dtype, []]));
    for (let turn = 0; turn <= job.loads; turn++) {
        for (const dtype of job.dtypes) {
            const start = performance.now();
            const model = await open({ dtype });
            if (turn > 0) loads[dtype].push(performance.now() - start);
            await model.dispose();
        }
    }
    const models = {};
    for (const dtype of job.dtypes) models[dtype] = await open({ dtype });
    const logits = {};
    for (const dtype of job.dtypes) {
        logits[dtype] = [];
        for (let index = 0; index < count; index++)
            logits[dtype].push(Array.from((await models[dtype](input(index))).logits.data));
    }
    const times = Object.fromEntries(job.dtypes.map((dtype) => [dtype, []]));
    for (let turn = -2; turn < job.runs; turn++) {
        const one = input(((turn % count) + count) % count);
        for (const dtype of job.dtypes) {
            const start = performance.now();
            await models[dtype](one);
            if (turn >= 0) times[dtype].push(performance.now() - start);
        }
    }
    const classify = await pipeline('image-classification', job.model, { session_options: job.session });
    const labels = [];
    for (const image of job.images) labels.push((await classify(image, { top_k: 1 }))[0].label);
    const files = job.dtypes.map((dtype) =>
        ({ dtype, load: median(loads[dtype]), times: times[dtype], logits: logits[dtype] }));
    return { version: library.env.version, files, labels };
}
