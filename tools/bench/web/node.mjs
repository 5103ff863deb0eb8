// node node.mjs MODULES JOB.json ANSWERS.json: run a job with the library in MODULES, in Node.

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { measure } from './client.mjs';

const [modules, path, answers] = process.argv.slice(2);
const find = createRequire(`${modules}/none.js`);
const library = await import(pathToFileURL(find.resolve('@huggingface/transformers')));
const bytes = (name) => new Uint8Array(readFileSync(name)).buffer;
const job = JSON.parse(readFileSync(path));
library.env.allowRemoteModels = false;
library.env.localModelPath = job.folder;
const found = await measure(library.default ?? library, bytes, job);
writeFileSync(answers, JSON.stringify({ ...found, runtime: `Node ${process.version.slice(1)}` }));
