//! Tables of what the book makes of what it hears, and a run of arbitrary events against what must always hold.

use proptest::prelude::*;

use super::*;

const A: &str = "/r/a.sock";
const B: &str = "/r/b.sock";

fn plugin(socket: &str, name: &str, version: &str) -> Plugin {
    Plugin {
        kind: "CSIPlugin".into(),
        name: name.into(),
        endpoint: "/csi.sock".into(),
        versions: vec![version.into()],
        socket: socket.into(),
    }
}

/// A book on a clock of the test's.
struct Desk {
    book: Book,
    now: Instant,
    sockets: BTreeMap<PathBuf, Identity>,
}

impl Desk {
    fn new() -> Self {
        Self { book: Book::default(), now: Instant::now(), sockets: BTreeMap::new() }
    }

    fn has(&mut self, socket: &str, inode: u64) {
        self.sockets.insert(socket.into(), Identity::number(inode));
        self.book.observe(&self.sockets, self.now);
    }

    fn loses(&mut self, socket: &str) {
        self.sockets.remove(Path::new(socket));
        self.book.observe(&self.sockets, self.now);
    }

    fn steps(&mut self) -> Vec<Step> {
        self.book.steps(self.now)
    }

    fn answers(&mut self, plugin: &Plugin) {
        self.book.asked(&plugin.socket.clone(), Ok((plugin.clone(), Ok(()))), self.now);
    }

    /// Lets a socket be asked and registered.
    fn registers(&mut self, plugin: &Plugin) {
        assert_eq!(self.steps(), [Step::Ask(plugin.socket.clone())]);
        self.answers(plugin);
        assert_eq!(self.steps(), [Step::Register(plugin.clone())]);
        self.book.registered(plugin.clone(), Registration::Done, self.now);
    }

    fn waits(&mut self, milliseconds: u64) {
        let due = self.book.due().expect("something is due");
        assert_eq!(due - self.now, Duration::from_millis(milliseconds));
        self.now = due;
    }

    fn registered(&self) -> Vec<(&str, &str)> {
        self.book
            .view()
            .filter_map(|(path, plugin, _)| Some((path.to_str()?, plugin?.versions.first()?.as_str())))
            .collect()
    }

    fn at_rest(&mut self) {
        assert_eq!((self.steps(), self.book.due()), (vec![], None));
        assert_eq!((self.book.busy, self.book.busy_names.len()), (0, 0));
    }
}

#[test]
fn a_socket_is_asked_registered_and_deregistered_when_it_goes() {
    let mut desk = Desk::new();
    let a = plugin(A, "d", "1.0.0");
    desk.has(A, 1);
    desk.registers(&a);
    assert_eq!(desk.registered(), [(A, "1.0.0")]);
    desk.at_rest();
    desk.has(A, 1);
    desk.at_rest();
    desk.loses(A);
    assert_eq!(desk.steps(), [Step::Deregister(a.clone())]);
    desk.book.deregistered(&a, desk.now);
    assert_eq!(desk.registered(), []);
    desk.at_rest();
    assert!(desk.book.entries.is_empty() && desk.book.owners.is_empty());
}

#[test]
fn who_does_not_answer_is_asked_less_and_less_often() {
    let mut desk = Desk::new();
    desk.has(A, 1);
    assert!(!desk.book.has_answered(Path::new(A)));
    for wait in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000] {
        assert_eq!(desk.steps(), [Step::Ask(A.into())]);
        desk.book.asked(Path::new(A), Err("silent".into()), desk.now);
        assert_eq!(desk.book.problem(Path::new(A)), Some("silent"));
        assert_eq!(desk.steps(), []);
        desk.waits(wait);
    }
    // Made anew it is asked at once, and the waits begin anew.
    desk.now += Duration::from_millis(1);
    assert_eq!(desk.steps(), [Step::Ask(A.into())]);
    desk.has(A, 2);
    desk.book.asked(Path::new(A), Err("silent".into()), desk.now);
    assert_eq!(desk.steps(), [Step::Ask(A.into())]);
    desk.book.asked(Path::new(A), Err("silent".into()), desk.now);
    desk.waits(500);
}

#[test]
fn a_plugin_that_restarts_is_not_gone_in_between() {
    let mut desk = Desk::new();
    desk.has(A, 1);
    desk.registers(&plugin(A, "d", "1.0.0"));
    desk.has(A, 2);
    assert_eq!(desk.steps(), [Step::Ask(A.into())]);
    desk.book.asked(Path::new(A), Err("still starting".into()), desk.now);
    assert_eq!(desk.registered(), [(A, "1.0.0")]);
    desk.waits(500);
    let moved = Plugin { endpoint: "/other.sock".into(), ..plugin(A, "d", "1.1.0") };
    desk.registers(&moved);
    assert_eq!(desk.registered(), [(A, "1.1.0")]);
    desk.at_rest();
    desk.loses(A);
    assert_eq!(desk.steps(), [Step::Deregister(moved)]);
}

#[test]
fn a_registration_that_fails_leaves_what_was_and_is_tried_again() {
    let mut desk = Desk::new();
    desk.has(A, 1);
    desk.registers(&plugin(A, "d", "1.0.0"));
    desk.has(A, 2);
    let newer = plugin(A, "d", "1.1.0");
    for wait in [500, 1000] {
        assert_eq!(desk.steps(), [Step::Ask(A.into())]);
        desk.answers(&newer);
        assert_eq!(desk.steps(), [Step::Register(newer.clone())]);
        desk.book.registered(newer.clone(), Registration::Failed("no".into()), desk.now);
        assert_eq!(desk.registered(), [(A, "1.0.0")]);
        desk.waits(wait);
    }
    desk.registers(&newer);
    desk.at_rest();
}

#[test]
fn who_could_not_be_told_is_registered_and_told_again() {
    let mut desk = Desk::new();
    let a = plugin(A, "d", "1.0.0");
    desk.has(A, 1);
    assert_eq!(desk.steps(), [Step::Ask(A.into())]);
    desk.answers(&a);
    desk.steps();
    desk.book.registered(a.clone(), Registration::Untold("broken".into()), desk.now);
    assert_eq!(desk.registered(), [(A, "1.0.0")]);
    desk.waits(500);
    desk.registers(&a);
    assert_eq!(desk.book.problem(Path::new(A)), None);
    desk.at_rest();
}

#[test]
fn one_that_is_refused_now_goes_and_is_asked_again_later() {
    let mut desk = Desk::new();
    let a = plugin(A, "d", "1.0.0");
    desk.has(A, 1);
    desk.registers(&a);
    desk.has(A, 2);
    desk.steps();
    let bad = plugin(A, "d", "7");
    desk.book.asked(Path::new(A), Ok((bad.clone(), Err("no".into()))), desk.now);
    assert_eq!(desk.steps(), [Step::Refuse(bad.clone(), "no".into())]);
    desk.book.refused(&bad, desk.now);
    assert_eq!(desk.steps(), [Step::Deregister(a.clone())]);
    desk.book.deregistered(&a, desk.now);
    assert_eq!(desk.registered(), []);
    assert_eq!(desk.steps(), []);
    assert_eq!(desk.book.problem(Path::new(A)), Some("no"));
    desk.waits(500);
    desk.registers(&a);
}

#[test]
fn a_plugin_that_takes_another_name_gives_up_the_first() {
    let mut desk = Desk::new();
    let (old, new) = (plugin(A, "d", "1.0.0"), plugin(A, "e", "1.0.0"));
    desk.has(A, 1);
    desk.registers(&old);
    desk.has(A, 2);
    desk.steps();
    desk.answers(&new);
    assert_eq!(desk.steps(), [Step::Deregister(old.clone())]);
    desk.book.deregistered(&old, desk.now);
    desk.registers(&new);
    desk.at_rest();
}

#[test]
fn of_two_with_one_name_the_accepted_has_it_until_it_goes() {
    let mut desk = Desk::new();
    let (a, b) = (plugin(A, "d", "1.0.0"), plugin(B, "d", "1.1.0"));
    desk.has(A, 1);
    desk.registers(&a);
    desk.has(B, 2);
    desk.registers(&b);
    assert_eq!(desk.registered(), [(B, "1.1.0")]);
    assert!([A, B].iter().all(|socket| desk.book.has_answered(Path::new(socket))));
    // The first neither takes it back nor, when it goes, takes it away.
    desk.at_rest();
    desk.loses(A);
    desk.at_rest();
    desk.has(A, 3);
    desk.steps();
    desk.book.asked(Path::new(A), Ok((a.clone(), Err("taken".into()))), desk.now);
    desk.steps();
    desk.book.refused(&a, desk.now);
    assert_eq!(desk.registered(), [(B, "1.1.0")]);
    // It is asked as soon as the other has gone.
    desk.loses(B);
    assert_eq!(desk.steps(), [Step::Deregister(b.clone())]);
    desk.book.deregistered(&b, desk.now);
    desk.registers(&a);
    assert_eq!(desk.registered(), [(A, "1.0.0")]);
    desk.at_rest();
}

#[test]
fn a_name_is_dealt_with_once_at_a_time() {
    let mut desk = Desk::new();
    let (a, b) = (plugin(A, "d", "1.0.0"), plugin(B, "d", "1.1.0"));
    desk.has(A, 1);
    desk.registers(&a);
    desk.has(B, 2);
    desk.steps();
    desk.answers(&b);
    assert_eq!(desk.steps(), [Step::Register(b.clone())]);
    // The first goes while the second takes its place.
    desk.loses(A);
    assert_eq!(desk.steps(), []);
    desk.book.registered(b.clone(), Registration::Failed("no".into()), desk.now);
    assert_eq!(desk.steps(), [Step::Deregister(a.clone())]);
    desk.book.deregistered(&a, desk.now);
    desk.registers(&b);
    assert_eq!(desk.registered(), [(B, "1.1.0")]);
    desk.at_rest();
}

#[test]
fn what_vanishes_while_it_registers_is_deregistered_afterwards() {
    let mut desk = Desk::new();
    let a = plugin(A, "d", "1.0.0");
    desk.has(A, 1);
    desk.steps();
    desk.answers(&a);
    assert_eq!(desk.steps(), [Step::Register(a.clone())]);
    desk.loses(A);
    assert_eq!(desk.steps(), []);
    desk.book.registered(a.clone(), Registration::Done, desk.now);
    assert_eq!(desk.steps(), [Step::Deregister(a.clone())]);
    // It comes back before that has ended: it is asked when it has.
    desk.has(A, 2);
    assert_eq!(desk.steps(), []);
    desk.book.deregistered(&a, desk.now);
    desk.registers(&a);
    desk.at_rest();
}

#[test]
fn a_crowd_is_asked_a_few_at_a_time() {
    let mut desk = Desk::new();
    for number in 0..50 {
        desk.sockets.insert(format!("/r/{number}.sock").into(), Identity::number(number));
    }
    desk.book.observe(&desk.sockets, desk.now);
    let mut asked = 0;
    loop {
        let steps = desk.steps();
        if steps.is_empty() {
            break;
        }
        assert!(desk.book.busy <= AT_ONCE);
        assert!(asked > 0 || desk.book.due().is_none());
        for step in steps {
            asked += 1;
            desk.book.asked(step.socket(), Err("silent".into()), desk.now);
        }
    }
    assert_eq!(asked, 50);
}

#[derive(Clone, Debug)]
enum Event {
    Make(usize),
    Remove(usize),
    Answer { which: usize, name: usize, verdict: u8 },
    Wait,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..4usize).prop_map(Event::Make),
        (0..4usize).prop_map(Event::Remove),
        (0..8usize, 0..2usize, 0..5u8).prop_map(|(which, name, verdict)| Event::Answer {
            which,
            name,
            verdict
        }),
        Just(Event::Wait),
    ]
}

proptest! {
    /// Whatever happens: a name has one step at a time, the handler's view (what was registered and not deregistered since)
    /// is the book's, and in the end nothing is left of what has gone.
    #[test]
    fn the_handler_and_the_book_agree(events in prop::collection::vec(event(), 0..120)) {
        let mut desk = Desk::new();
        let mut inode = 0;
        let mut under_way: Vec<Step> = Vec::new();
        let mut handler: BTreeMap<String, PathBuf> = BTreeMap::new();
        let answer = |desk: &mut Desk, handler: &mut BTreeMap<String, PathBuf>, step: Step, name: usize, verdict: u8| {
            match step {
                Step::Ask(path) => {
                    let who = plugin(path.to_str().unwrap(), ["d", "e"][name], "1.0.0");
                    let said = match verdict {
                        0 => Err("silent".to_owned()),
                        1 => Ok((who, Err("refused".to_owned()))),
                        _ => Ok((who, Ok(()))),
                    };
                    desk.book.asked(&path, said, desk.now);
                }
                Step::Register(who) => {
                    let result = match verdict {
                        0 => Registration::Failed("no".into()),
                        1 => Registration::Untold("deaf".into()),
                        _ => Registration::Done,
                    };
                    if verdict != 0 {
                        handler.insert(who.name.clone(), who.socket.clone());
                    }
                    desk.book.registered(who, result, desk.now);
                }
                Step::Refuse(who, _) => desk.book.refused(&who, desk.now),
                Step::Deregister(who) => {
                    assert_eq!(handler.remove(&who.name).as_ref(), Some(&who.socket), "only what is registered goes");
                    desk.book.deregistered(&who, desk.now);
                }
            }
        };
        let consistent = |desk: &Desk, handler: &BTreeMap<String, PathBuf>, under_way: &[Step]| {
            let mut names: Vec<&str> = under_way
                .iter()
                .filter_map(|step| match step {
                    Step::Register(who) | Step::Deregister(who) => Some(who.name.as_str()),
                    Step::Ask(_) | Step::Refuse(..) => None,
                })
                .collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "one step a name: {under_way:?}");
            let book: BTreeMap<String, PathBuf> = desk
                .book
                .view()
                .filter_map(|(path, plugin, _)| Some((plugin?.name.clone(), path.to_path_buf())))
                .collect();
            assert_eq!(&book, handler);
        };
        for event in events {
            match event {
                Event::Make(which) => {
                    inode += 1;
                    desk.has(&format!("/r/{which}.sock"), inode);
                }
                Event::Remove(which) => desk.loses(&format!("/r/{which}.sock")),
                Event::Answer { which, name, verdict } => {
                    if !under_way.is_empty() {
                        let step = under_way.remove(which % under_way.len());
                        answer(&mut desk, &mut handler, step, name, verdict);
                    }
                }
                Event::Wait => {
                    if let Some(due) = desk.book.due() {
                        desk.now = desk.now.max(due);
                    }
                }
            }
            under_way.extend(desk.steps());
            consistent(&desk, &handler, &under_way);
        }
        desk.sockets.clear();
        desk.book.observe(&desk.sockets, desk.now);
        for _ in 0..1000 {
            under_way.extend(desk.steps());
            let Some(step) = under_way.pop() else { break };
            answer(&mut desk, &mut handler, step, 0, 4);
            consistent(&desk, &handler, &under_way);
        }
        prop_assert!(handler.is_empty() && desk.book.entries.is_empty() && desk.book.owners.is_empty());
        prop_assert!(desk.book.busy == 0 && desk.book.busy_names.is_empty());
    }
}
