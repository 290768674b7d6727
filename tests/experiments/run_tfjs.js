// Runs FaceRes up to its pooled features: node run_tfjs.js MODULES_FOLDER MANIFEST SIZE < float32 pixels > JSON of features
const path = require('path');
const fs = require('fs');
const [modules, manifest, size] = process.argv.slice(2);
const load = (name) => require(path.join(modules, '@tensorflow', name));
const tf = load('tfjs-core');
load('tfjs-backend-cpu');
const { loadGraphModel } = load('tfjs-converter');
const content = JSON.parse(fs.readFileSync(manifest));
for (const side of [1, 2]) {
  // The network takes faces of any size; only its input is declared as 224 x 224.
  content.modelTopology.node.find((node) => node.name === 'input_1').attr.shape.shape.dim[side].size = '-1';
}
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
  const pooled = await model.executeAsync({ input_1: faces }, 'global_pooling/Mean');
  process.stdout.write(JSON.stringify(pooled.arraySync()));
})();
