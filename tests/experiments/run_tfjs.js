// Runs a TensorFlow.js graph model: node run_tfjs.js MODULES_FOLDER MANIFEST SIZE < float32 pixels > JSON of outputs
const path = require('path');
const fs = require('fs');
const [modules, manifest, size] = process.argv.slice(2);
const load = (name) => require(path.join(modules, '@tensorflow', name));
const tf = load('tfjs-core');
load('tfjs-backend-cpu');
const { loadGraphModel } = load('tfjs-converter');
const content = JSON.parse(fs.readFileSync(manifest));
const bytes = fs.readFileSync(manifest.replace(/json$/, 'bin'));
const files = {
  load: async () => ({
    modelTopology: content.modelTopology,
    signature: content.signature,
    format: content.format,
    weightSpecs: content.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length),
  }),
};
(async () => {
  await tf.setBackend('cpu');
  const model = await loadGraphModel(files);
  const pixels = fs.readFileSync(0);
  const values = new Float32Array(pixels.buffer.slice(pixels.byteOffset, pixels.byteOffset + pixels.length));
  const faces = tf.tensor4d(values, [values.length / (size * size * 3), +size, +size, 3]);
  const names = { pooled: 'global_pooling/Mean', gender: 'gender_pred/Sigmoid', age: 'age_pred/Softmax' };
  const found = await model.executeAsync({ input_1: faces }, Object.values(names));
  const told = Object.keys(names).map((name, i) => [name, found[i].arraySync()]);
  process.stdout.write(JSON.stringify(Object.fromEntries(told)));
})();
