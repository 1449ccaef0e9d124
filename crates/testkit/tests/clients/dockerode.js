// dockerode, unmodified: promises, streams and hijacked connections.
const assert = require('node:assert/strict');
const { PassThrough } = require('node:stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.DOCKER_HOST.replace('unix://', '') });
const prefix = `client-js-${process.pid}-${Date.now()}`;
const made = [];

const text = () => {
  const stream = new PassThrough();
  stream.words = '';
  stream.on('data', (bytes) => { stream.words += bytes; });
  return stream;
};
const ended = (stream) => new Promise((resolve, reject) => stream.on('end', resolve).on('close', resolve).on('error', reject));
const create = async (options) => {
  const box = await docker.createContainer({ Image: 'box', name: `${prefix}-${made.length}`, ...options });
  made.push(box);
  return box;
};

async function runs() {
  const out = text();
  const [result, box] = await docker.run('box', ['sh', '-c', 'echo hello; exit 4'], out, { Tty: false });
  made.push(box);
  assert.equal(result.StatusCode, 4);
  assert.match(out.words, /hello/);
  assert.equal((await docker.ping()).toString(), 'OK');
  assert.ok((await docker.version()).ApiVersion);
  await assert.rejects(docker.getContainer(`${prefix}-none`).inspect(), (error) => error.statusCode === 404 && /No such container/.test(error.json.message));
}

async function attaches() {
  const box = await create({ Cmd: ['cat'], OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true });
  const stream = await box.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  const [out, err] = [text(), text()];
  docker.modem.demuxStream(stream, out, err);
  const over = ended(stream);
  await box.start();
  stream.write('there and back\n');
  stream.end();
  assert.equal((await box.wait()).StatusCode, 0);
  await over;
  assert.equal(out.words, 'there and back\n');
}

async function terminals() {
  const box = await create({ Cmd: ['sh'], Tty: true, OpenStdin: true });
  const stream = await box.attach({ stream: true, stdin: true, stdout: true, hijack: true });
  await box.start();
  await box.resize({ h: 33, w: 77 });
  let seen = '';
  const size = new Promise((resolve) => stream.on('data', (bytes) => { seen += bytes; if (/33 77/.test(seen)) resolve(); }));
  stream.write('stty size\n');
  await size;
  stream.write('exit 9\n');
  assert.equal((await box.wait()).StatusCode, 9);
}

async function executes() {
  const box = await create({ Cmd: ['sleep', '600'], HostConfig: { AutoRemove: false } });
  await box.start();
  const exec = await box.exec({ Cmd: ['sh', '-c', 'cat; exit 6'], AttachStdin: true, AttachStdout: true, AttachStderr: true });
  const stream = await exec.start({ hijack: true, stdin: true });
  const [out, err] = [text(), text()];
  docker.modem.demuxStream(stream, out, err);
  stream.write('into exec');
  stream.end();
  await ended(stream);
  assert.equal(out.words, 'into exec');
  assert.equal((await exec.inspect()).ExitCode, 6);
  const logs = await box.logs({ stdout: true, stderr: true });
  assert.equal(logs.length, 0);
  const stats = await box.stats({ stream: false });
  assert.ok(stats.memory_stats.usage > 0);
  await box.kill();
  assert.equal((await box.wait()).StatusCode, 137);
}

async function follows() {
  const box = await create({ Cmd: ['sh', '-c', 'for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done'] });
  await box.start();
  const stream = await box.logs({ follow: true, stdout: true, stderr: true });
  const out = text();
  docker.modem.demuxStream(stream, out, text());
  await ended(stream);
  assert.equal(out.words.trim().split('\n').length, 5);
}

async function archives() {
  const box = await create({ Cmd: ['true'] });
  const stream = await box.getArchive({ path: '/etc/passwd' });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const tar = Buffer.concat(chunks);
  assert.equal(tar.subarray(0, 6).toString(), 'passwd');
  await box.putArchive(tar, { path: '/tmp' });
  const info = await box.infoArchive({ path: '/tmp/passwd' });
  assert.equal(info.statusCode ?? 200, 200);
}

async function events() {
  const stream = await docker.getEvents({ since: 0, until: Math.ceil(Date.now() / 1000) + 1, filters: { type: ['container'] } });
  let seen = '';
  for await (const chunk of stream) seen += chunk;
  const actions = seen.trim().split('\n').map((line) => JSON.parse(line).Action);
  for (const action of ['create', 'start', 'die']) assert.ok(actions.includes(action), action);
}

async function volumes() {
  const volume = await docker.createVolume({ Name: `${prefix}-v`, Labels: { a: 'b' } });
  assert.equal(volume.name ?? volume.Name, `${prefix}-v`);
  const handle = docker.getVolume(`${prefix}-v`);
  assert.deepEqual((await handle.inspect()).Labels, { a: 'b' });
  await handle.remove();
}

(async () => {
  const steps = [runs, attaches, terminals, executes, follows, archives, events, volumes];
  try {
    for (const step of steps) {
      console.log(step.name);
      await step();
    }
  } finally {
    for (const box of made) await box.remove({ force: true }).catch((error) => { if (error.statusCode !== 404) throw error; });
  }
  console.log('ok', steps.length);
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
