// Testcontainers for Node, unmodified (without its reaper, whose image no registry here has).
const assert = require('node:assert/strict');
process.env.TESTCONTAINERS_RYUK_DISABLED = 'true';
const { GenericContainer, Wait } = require('testcontainers');

// The library lets go of its log sockets, so that they keep no program alive: this does.
setInterval(() => {}, 1000);

(async () => {
  const box = await new GenericContainer('box')
    .withCommand(['sh', '-c', 'echo started; exec httpd -f -p 8080 -h /www'])
    .withEnvironment({ WORD: 'mellon' })
    .withLabels({ story: 'testcontainers' })
    .withExposedPorts(8080)
    .withTmpFs({ '/scratch': 'rw,size=1m' })
    .withCopyContentToContainer([{ content: 'copied in', target: '/tmp/note' }])
    .withWaitStrategy(Wait.forLogMessage('started'))
    .withStartupTimeout(60_000)
    .start();
  try {
    const { output, exitCode } = await box.exec(['sh', '-c', 'cat /tmp/note; echo " $WORD"']);
    assert.equal(exitCode, 0);
    assert.match(output, /copied in mellon/);
    assert.ok(box.getMappedPort(8080) > 0);
    assert.ok(box.getIpAddress('bridge'));
    const logs = await box.logs();
    const first = await new Promise((resolve) => logs.once('data', resolve));
    assert.match(String(first), /started/);
    logs.destroy();
    await box.restart();
  } finally {
    await box.stop();
  }
  const healthy = await new GenericContainer('box')
    .withCommand(['sleep', '600'])
    .withHealthCheck({ test: ['CMD', 'true'], interval: 100, timeout: 3000, retries: 5, startPeriod: 100 })
    .withWaitStrategy(Wait.forHealthCheck())
    .withStartupTimeout(60_000)
    .start();
  await healthy.stop();
  console.log('ok');
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
