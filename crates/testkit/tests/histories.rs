//! EN-16 (CVE-2024-36621, CVE-2024-36623): any interleaving of calls is equivalent to some order.
//!
//! Several clients do random things to five containers at once. Each call is noted with when it began, when it was
//! answered, and the answer; afterwards the history of each container is searched for an order of its calls that fits
//! their times and in which a simple model gives the same answers (Wing and Gong's algorithm, with a memory).
//!
//! A container here is a pair of names: `rename` moves between the two, so that both names are contended for.
//!
//! `WHARF_TEST_SEED` repeats a run's choices (not its timing), `WHARF_TEST_HISTORIES` is how many runs there are.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Instant;

use serde_json::json;
use wharf_testkit::{Api, Engine};

const CONTAINERS: usize = 5;
const CLIENTS: u64 = 4;
/// Calls of each client in one run.
const CALLS: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Absent,
    Created,
    Running,
    Paused,
    Exited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Create,
    Start,
    Stop,
    Kill,
    Pause,
    Unpause,
    Remove,
    Force,
    /// The end that a kill, stop or removal by force brings about; see [`with_ends`].
    End,
    /// Before it, a frozen container is thawed.
    Thaw,
    Update,
    Exec,
    Inspect,
    Rename,
}

const ALL: [Call; 14] = [
    Call::Create,
    Call::Create,
    Call::Start,
    Call::Start,
    Call::Stop,
    Call::Kill,
    Call::Pause,
    Call::Unpause,
    Call::Remove,
    Call::Force,
    Call::Update,
    Call::Exec,
    Call::Inspect,
    Call::Rename,
];

/// A call that was answered.
#[derive(Clone, Debug)]
struct Done {
    call: Call,
    /// Which of the pair of names.
    name: usize,
    status: u16,
    /// What inspect said.
    seen: Option<State>,
    message: String,
    /// It overlaps a rename: the container may have its other name when the call takes effect.
    moved: bool,
    begin: u128,
    end: u128,
}

/// What the model answers, and what becomes of the pair.
fn model(call: Call, state: State) -> (u16, State) {
    use State::{Absent, Created, Exited, Paused, Running};
    match (call, state) {
        (Call::Create, Absent) => (201, Created),
        (Call::Create, other) => (409, other),
        (Call::End | Call::Thaw, Absent) => (204, Absent),
        (_, Absent) => (404, Absent),
        (Call::Start, Created | Exited) => (204, Running),
        (Call::Start, Running) => (304, Running),
        (Call::Start, Paused) => (409, Paused),
        // They ask; the end follows.
        (Call::Stop, Running | Paused) => (204, state),
        (Call::Stop, other) => (304, other),
        (Call::Kill, Running | Paused) => (204, state),
        (Call::Kill, other) => (409, other),
        (Call::Pause, Running) => (204, Paused),
        (Call::Pause, other) => (409, other),
        (Call::Unpause, Paused) => (204, Running),
        (Call::Unpause, other) => (409, other),
        (Call::Remove, Running | Paused) => (409, state),
        (Call::End, Running | Paused) => (204, Exited),
        (Call::Thaw, Paused) => (204, Running),
        (Call::End | Call::Thaw, other) => (204, other),
        // What is left of it after its first half.
        (Call::Force, Running | Paused) => (409, state),
        (Call::Remove | Call::Force, _) => (204, Absent),
        (Call::Update | Call::Inspect, other) => (200, other),
        (Call::Exec, Running) => (201, Running),
        (Call::Exec, other) => (409, other),
        (Call::Rename, other) => (204, other),
    }
}

/// What the pair may be after a call, where the model gives the answer that was given. A call finds its container by a
/// name, which may have changed when the call takes effect.
fn steps(done: &Done, pair: [State; 2]) -> Vec<[State; 2]> {
    let mut nexts: Vec<_> = step(done, done.name, pair).into_iter().collect();
    if done.moved {
        nexts.extend(step(done, 1 - done.name, pair));
    }
    nexts
}

fn step(done: &Done, name: usize, pair: [State; 2]) -> Option<[State; 2]> {
    let mut next = pair;
    let (status, state) = model(done.call, pair[name]);
    if done.call == Call::Rename && status == 204 {
        let other = 1 - name;
        if pair[other] != State::Absent {
            return (done.status == 409).then_some(pair);
        }
        (next[other], next[name]) = (pair[name], State::Absent);
        return (done.status == 204).then_some(next);
    }
    next[name] = state;
    let seen = done.seen.is_none_or(|seen| seen == pair[name]);
    (status == done.status && seen).then_some(next)
}

/// Who stops, kills or removes by force first asks and then waits for the end, and others may come in between: they
/// see the container run, may freeze it, or give it its other name, which does not save it.
fn with_ends(history: &[Done]) -> Vec<Done> {
    let asks =
        |done: &&Done| matches!(done.call, Call::Stop | Call::Kill | Call::Force) && done.status == 204;
    let moved = |done: &Done| {
        let renames = |other: &&Done| other.call == Call::Rename && other.status == 204;
        let named = matches!(done.call, Call::Create | Call::Rename | Call::Inspect);
        let at_once = |other: &Done| other.begin <= done.end && done.begin <= other.end;
        !named && done.status != 404 && history.iter().filter(renames).any(at_once)
    };
    let history = history.iter().map(|done| Done { moved: moved(done), ..done.clone() });
    let history: Vec<Done> = history.collect();
    let ends = history.iter().filter(asks);
    let ends = ends.flat_map(|done| [Call::Thaw, Call::End].map(|call| Done { call, ..done.clone() }));
    history.iter().cloned().chain(ends).collect()
}

/// True when some order of the calls, in which none comes before one that was answered before it began, fits the model.
fn has_order(history: &[Done]) -> bool {
    let all = (1_u128 << history.len()) - 1;
    let mut known: HashSet<(u128, [State; 2])> = HashSet::new();
    let mut open = vec![(0_u128, [State::Absent; 2])];
    while let Some((done, pair)) = open.pop() {
        if done == all {
            return true;
        }
        if !known.insert((done, pair)) {
            continue;
        }
        let left = || history.iter().enumerate().filter(|(index, _)| done & (1 << index) == 0);
        let first_end = left().map(|(_, call)| call.end).min().unwrap_or_default();
        for (index, call) in left().filter(|(_, call)| call.begin <= first_end) {
            let nexts = steps(call, pair);
            open.extend(nexts.iter().map(|next| (done | 1 << index, *next)));
            if nexts.is_empty() && refused_meanwhile(call, history) {
                open.push((done | 1 << index, pair));
            }
        }
    }
    false
}

/// Neither a creation nor a removal is one moment: a name is taken from the beginning of the one to the end of the
/// other, and a container that is being removed refuses with 409 what it would otherwise take.
fn refused_meanwhile(call: &Done, history: &[Done]) -> bool {
    let at_once = |other: &Done| other.begin <= call.end && call.begin <= other.end;
    let slow = |other: &&Done| {
        let removes = matches!(other.call, Call::Remove | Call::Force);
        let names = matches!(other.call, Call::Create | Call::Rename) && other.status < 300;
        at_once(other) && (removes || (names && matches!(call.call, Call::Create | Call::Rename)))
    };
    call.status == 409 && history.iter().any(|other| slow(&other))
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a small number")
    }
}

fn name(container: usize, which: usize) -> String {
    // Nothing that could be the beginning of an id.
    format!("pair-{container}-{}", ["one", "two"][which])
}

fn perform(api: &Api, call: Call, container: usize, which: usize) -> (u16, Option<State>, String) {
    let this = name(container, which);
    let ask = |method: &str, path: String, body: Option<serde_json::Value>| {
        api.request(method, &path, body.as_ref()).expect("the engine answers every call")
    };
    let sleeper = json!({"Image": "box", "Cmd": ["sleep", "1000"]});
    let answer = match call {
        Call::Create => ask("POST", format!("/containers/create?name={this}"), Some(sleeper)),
        Call::Start => ask("POST", format!("/containers/{this}/start"), None),
        Call::Stop => ask("POST", format!("/containers/{this}/stop?t=0"), None),
        Call::Kill => ask("POST", format!("/containers/{this}/kill"), None),
        Call::Pause => ask("POST", format!("/containers/{this}/pause"), None),
        Call::Unpause => ask("POST", format!("/containers/{this}/unpause"), None),
        Call::Remove => ask("DELETE", format!("/containers/{this}"), None),
        Call::Force | Call::End | Call::Thaw => ask("DELETE", format!("/containers/{this}?force=1"), None),
        Call::Update => ask("POST", format!("/containers/{this}/update"), Some(json!({"CpuShares": 512}))),
        Call::Exec => ask("POST", format!("/containers/{this}/exec"), Some(json!({"Cmd": ["true"]}))),
        Call::Inspect => ask("GET", format!("/containers/{this}/json"), None),
        Call::Rename => {
            ask("POST", format!("/containers/{this}/rename?name={}", name(container, 1 - which)), None)
        }
    };
    let document = answer.json();
    let seen = match document["State"]["Status"].as_str() {
        Some("created") => Some(State::Created),
        Some("running") => Some(State::Running),
        Some("paused") => Some(State::Paused),
        Some("exited") => Some(State::Exited),
        _ => None,
    };
    (answer.status, seen, answer.message())
}

fn run(engine: &Engine, seed: u64) {
    let origin = Instant::now();
    let histories: [Mutex<Vec<Done>>; CONTAINERS] = Default::default();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (api, histories) = (engine.api(), &histories);
            scope.spawn(move || {
                let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (client + 1));
                for _ in 0..CALLS {
                    let (container, which) = (random.below(CONTAINERS), usize::from(random.below(4) == 0));
                    let call = ALL[random.below(ALL.len())];
                    let begin = origin.elapsed().as_nanos();
                    let (status, seen, message) = perform(&api, call, container, which);
                    let end = origin.elapsed().as_nanos();
                    let done = Done { call, name: which, status, seen, message, moved: false, begin, end };
                    histories[container].lock().expect("no client panics with it").push(done);
                }
            });
        }
    });
    for (container, history) in histories.into_iter().enumerate() {
        let mut history = history.into_inner().expect("no client panics with it");
        history.sort_by_key(|done| done.begin);
        for done in &history {
            assert!(done.status < 500, "seed {seed}: {done:?}");
            let took = (done.end - done.begin) / 1_000_000_000;
            assert!(took < 9, "seed {seed}: {took} seconds for {done:?}");
        }
        let line = |done: &Done| {
            let Done { call, name, status, seen, message, begin, end, .. } = done;
            let message = message.get(..message.len().min(200)).unwrap_or_default();
            format!("{begin:>12} to {end:>12}: {call:?} of {name}: {status} {seen:?} {message}")
        };
        let lines: Vec<String> = history.iter().map(line).collect();
        assert!(
            has_order(&with_ends(&history)),
            "seed {seed}: no order of the calls on container {container} explains their answers:\n{}",
            lines.join("\n")
        );
        for which in 0..2 {
            let path = format!("/containers/{}?force=1&v=1", name(container, which));
            let gone = engine.api().request("DELETE", &path, None).expect("answered").status;
            assert!(matches!(gone, 204 | 404), "{gone}");
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn en_16_any_interleaving_of_calls_is_equivalent_to_some_order() {
    let engine = Engine::with_image();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let first = number("WHARF_TEST_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    for seed in first..first + number("WHARF_TEST_HISTORIES").unwrap_or(2) {
        println!("seed {seed}: repeat with WHARF_TEST_SEED={seed}");
        run(&engine, seed);
    }
}

/// As with Docker: who asks for a removal that is under way is told so, and not that he has done it.
#[test]
fn en_16_of_many_who_remove_at_once_one_does() {
    let engine = Engine::with_image();
    let api = engine.api();
    let sleeper = json!({"Image": "box", "Cmd": ["sleep", "1000"]});
    for _ in 0..5 {
        for (path, body) in
            [("/containers/create?name=pair", Some(&sleeper)), ("/containers/pair/start", None)]
        {
            let answer = api.request("POST", path, body).expect("answered");
            assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.message());
        }
        let begin = std::sync::Barrier::new(6);
        let mut answers: Vec<(u16, String)> = std::thread::scope(|scope| {
            let remove = || {
                begin.wait();
                let answer = api.request("DELETE", "/containers/pair?force=1", None).expect("answered");
                (answer.status, answer.message())
            };
            let calls: Vec<_> = (0..6).map(|_| scope.spawn(remove)).collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect()
        });
        answers.sort();
        assert_eq!(answers.iter().filter(|(status, _)| *status == 204).count(), 1, "{answers:?}");
        for (status, message) in &answers[1..] {
            match status {
                404 => assert!(message.contains("No such container"), "{message}"),
                409 => assert_eq!(message, "removal of container pair is already in progress"),
                _ => panic!("{answers:?}"),
            }
        }
    }
}

/// The checker itself: it finds an order where there is one, and none where there is none.
#[test]
fn the_checker_tells_possible_from_impossible() {
    let done = |call, status, begin, end| Done {
        call,
        name: 0,
        status,
        seen: None,
        message: String::new(),
        moved: false,
        begin,
        end,
    };
    let two_starts =
        [done(Call::Create, 201, 0, 1), done(Call::Start, 304, 2, 5), done(Call::Start, 204, 3, 4)];
    assert!(has_order(&two_starts));
    let both = [done(Call::Create, 201, 0, 1), done(Call::Start, 204, 2, 5), done(Call::Start, 204, 3, 4)];
    assert!(!has_order(&both), "only one of two starts can be the one");
    let late = [done(Call::Create, 201, 0, 1), done(Call::Start, 304, 2, 3), done(Call::Start, 204, 4, 5)];
    assert!(!has_order(&late), "an answer does not depend on a call that has not begun");
    let mut seen = done(Call::Inspect, 200, 2, 3);
    seen.seen = Some(State::Running);
    assert!(!has_order(&[done(Call::Create, 201, 0, 1), seen]));
}
