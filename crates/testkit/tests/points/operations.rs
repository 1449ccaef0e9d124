//! What people do with an engine, each with what must be there before and what must be true after.

/// One operation. `act` runs `wharf` once; the words `{dir}`, `{registry}` and `{port}` stand for what the test has.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// Command lines before it. The leading `!` says that it may fail.
    pub(crate) before: &'static [&'static str],
    pub(crate) act: &'static str,
    /// What an earlier attempt that had its effect makes of a second one; then the work is done.
    pub(crate) already: &'static [&'static str],
    /// What is left to do after such an answer.
    pub(crate) finish: &'static [&'static str],
    /// Command lines that succeed when the work is done; `=> text` says what they print.
    pub(crate) holds: &'static [&'static str],
    /// Whether a shim or the inside of a container takes part.
    pub(crate) inside: bool,
}

/// Removes everything that operations make, in an order that works from every state.
pub(crate) const CLEAN: &[&str] = &[
    "!rm -fv one",
    "!rm -fv two",
    "!container prune -f",
    "!volume rm -f vol",
    "!volume prune -af",
    "!rmi -f made:1 loaded:1 {registry}/pulled:1",
    "!image prune -f",
];

const CREATED: &str = "create --name one --stop-signal KILL -v /scratch box sleep 600";
const RUNNING: &str = "run -d --name one --stop-signal KILL -v /scratch box sleep 600";

const NONE: Operation =
    Operation { name: "", before: &[], act: "", already: &[], finish: &[], holds: &[], inside: false };

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "create",
        act: CREATED,
        already: &["is already in use"],
        holds: &["inspect -f {{.State.Status}} one => created", "cp one:/etc/notes -"],
        ..NONE
    },
    Operation {
        name: "start",
        before: &["create --name one --stop-signal KILL -p {port}:80 box sleep 600"],
        act: "start one",
        holds: &["inspect -f {{.State.Status}} one => running", "exec one echo yes => yes"],
        inside: true,
        ..NONE
    },
    Operation {
        name: "run",
        act: "run -d --name one --stop-signal KILL -p {port}:80 -v vol:/data box sleep 600",
        already: &["is already in use"],
        finish: &["start one"],
        holds: &["inspect -f {{.State.Status}} one => running", "exec one touch /data/x", "port one 80/tcp"],
        inside: true,
        ..NONE
    },
    Operation {
        name: "run --rm",
        act: "run --rm --name one box echo said",
        already: &["is already in use"],
        finish: &["rm -f one"],
        holds: &["ps -aq => "],
        inside: true,
        ..NONE
    },
    Operation {
        name: "stop",
        before: &[RUNNING],
        act: "stop one",
        holds: &["inspect -f {{.State.Status}}/{{.State.ExitCode}} one => exited/137"],
        inside: true,
        ..NONE
    },
    Operation {
        name: "kill",
        before: &[RUNNING],
        act: "kill one",
        already: &["is not running"],
        holds: &["inspect -f {{.State.Status}} one => exited"],
        inside: true,
        ..NONE
    },
    Operation {
        name: "restart",
        before: &[RUNNING],
        act: "restart one",
        holds: &["exec one echo yes => yes"],
        inside: true,
        ..NONE
    },
    Operation {
        name: "rm",
        before: &[CREATED],
        act: "rm -v one",
        already: &["No such container"],
        holds: &["ps -aq => ", "volume ls -q => "],
        ..NONE
    },
    Operation {
        name: "rm -f",
        before: &[RUNNING],
        act: "rm -fv one",
        already: &["No such container"],
        holds: &["ps -aq => ", "volume ls -q => "],
        inside: true,
        ..NONE
    },
    Operation {
        name: "exec",
        before: &[RUNNING],
        act: "exec one sh -c true",
        already: &["is not running"],
        finish: &["start one", "exec one sh -c true"],
        holds: &["exec one echo yes => yes"],
        inside: true,
    },
    Operation {
        name: "pause",
        before: &[RUNNING],
        act: "pause one",
        already: &["is already paused", "is not running"],
        holds: &["inspect one"],
        ..NONE
    },
    Operation {
        name: "unpause",
        before: &[RUNNING, "pause one"],
        act: "unpause one",
        already: &["is not paused"],
        holds: &["exec one echo yes => yes"],
        ..NONE
    },
    Operation {
        name: "rename",
        before: &[CREATED],
        act: "rename one two",
        already: &["No such container"],
        holds: &["inspect -f {{.Name}} two => /two"],
        ..NONE
    },
    Operation {
        name: "update",
        before: &[RUNNING],
        act: "update -m 64m --memory-swap -1 --pids-limit 50 --restart on-failure:3 one",
        holds: &[
            "inspect -f {{.HostConfig.Memory}}/{{.HostConfig.PidsLimit}} one => 67108864/50",
            "exec one echo yes => yes",
        ],
        ..NONE
    },
    Operation {
        name: "cp in",
        before: &[CREATED],
        act: "cp {dir}/file one:/tmp/copied",
        holds: &["cp one:/tmp/copied -"],
        ..NONE
    },
    Operation {
        name: "cp out",
        before: &[RUNNING],
        act: "cp one:/etc/notes {dir}/notes",
        holds: &["exec one echo yes => yes"],
        ..NONE
    },
    Operation {
        name: "diff",
        before: &[CREATED, "cp {dir}/file one:/tmp/copied"],
        act: "diff one",
        holds: &["diff one => A /scratch\nC /tmp\nA /tmp/copied"],
        ..NONE
    },
    Operation {
        name: "commit",
        before: &[CREATED, "cp {dir}/file one:/tmp/copied"],
        act: "commit one made:1",
        holds: &["run --rm made:1 cat /tmp/copied => content of a file"],
        ..NONE
    },
    Operation {
        name: "export",
        before: &[CREATED],
        act: "export -o {dir}/exported.tar one",
        holds: &["inspect one"],
        ..NONE
    },
    Operation {
        name: "import",
        act: "import {dir}/root.tar made:1",
        holds: &["run --rm made:1 /bin/cat /etc/notes => not a program"],
        ..NONE
    },
    Operation {
        name: "load",
        act: "load -i {dir}/image.tar",
        holds: &["run --rm loaded:1 cat /large-2 => two"],
        ..NONE
    },
    Operation { name: "save", act: "save -o {dir}/saved.tar box", holds: &["image inspect box"], ..NONE },
    Operation {
        name: "pull",
        act: "pull {registry}/pulled:1",
        holds: &["run --rm {registry}/pulled:1 cat /large-2 => two"],
        ..NONE
    },
    Operation {
        name: "push",
        before: &["load -i {dir}/image.tar", "tag loaded:1 {registry}/pulled:1"],
        act: "push {registry}/pulled:1",
        holds: &["rmi {registry}/pulled:1", "pull {registry}/pulled:1"],
        ..NONE
    },
    Operation { name: "tag", act: "tag box made:1", holds: &["image inspect made:1"], ..NONE },
    Operation {
        name: "rmi",
        before: &["load -i {dir}/image.tar"],
        act: "rmi loaded:1",
        already: &["No such image"],
        holds: &["images -q loaded => "],
        ..NONE
    },
    Operation {
        name: "volume create",
        act: "volume create vol",
        holds: &["run --rm -v vol:/data box touch /data/x", "volume inspect vol"],
        ..NONE
    },
    Operation {
        name: "volume rm",
        before: &["volume create vol"],
        act: "volume rm vol",
        already: &["no such volume"],
        holds: &["volume ls -q => "],
        ..NONE
    },
    Operation {
        name: "volume prune",
        before: &["volume create vol"],
        act: "volume prune -af",
        holds: &["volume ls -q => "],
        ..NONE
    },
    Operation {
        name: "container prune",
        before: &[CREATED, "create --name two box true"],
        act: "container prune -f",
        holds: &["ps -aq => "],
        ..NONE
    },
    Operation {
        name: "image prune",
        before: &[CREATED, "load -i {dir}/image.tar"],
        act: "image prune -af",
        holds: &["images -q loaded => ", "image inspect box"],
        ..NONE
    },
    Operation {
        name: "system prune",
        before: &[CREATED, "volume create vol"],
        act: "system prune -f --volumes",
        holds: &["ps -aq => "],
        ..NONE
    },
    Operation {
        name: "log rotation",
        before: &[],
        act: "run --name one --log-opt max-size=20k --log-opt max-file=2 box seq 8000",
        already: &["is already in use"],
        finish: &["start -a one"],
        holds: &["logs --tail 1 one => 8000"],
        inside: true,
    },
];
