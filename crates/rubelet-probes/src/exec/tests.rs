//! Commands of all kinds, against a runtime that is one future.

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::EnvVar;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

type Answer = Result<v1::ExecSyncResponse, CriError>;

fn ended(exit_code: i32, stdout: &str, stderr: &str) -> Answer {
    Ok(v1::ExecSyncResponse { exit_code, stdout: stdout.into(), stderr: stderr.into() })
}

/// A runtime that answers after so many milliseconds; `None` never answers.
fn call(answer: Option<(u64, Answer)>) -> CriFuture<v1::ExecSyncResponse> {
    async move {
        match answer {
            Some((millis, answer)) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                answer
            }
            None => std::future::pending().await,
        }
    }
    .boxed()
}

async fn run_call(answer: Option<(u64, Answer)>, watch: Option<&dyn ExecWatch>) -> Option<ProbeOutcome> {
    wait(call(answer), watch, &ContainerId::from("c"), &["check".to_owned()], TIMEOUT).await
}

#[track_caller]
fn check(answer: Answer, expected: Option<ProbeOutcome>) {
    assert_eq!(outcome(answer), expected);
}

#[test]
fn answers_are_judged_as_upstream_does() {
    use ProbeOutcome::{Error, Failure, Success};
    check(ended(0, "fine", "a warning"), Some(Success));
    check(ended(1, "out", "err"), Some(Failure("outerr".into())));
    check(ended(137, "", ""), Some(Failure(String::new())));
    check(ended(-1, "", "x"), Some(Failure("x".into())));
    let failed = |code, words: &str| Err(CriError::from_answer("ExecSync", code, words));
    check(failed(4, "failed to exec in container: timeout 1s exceeded: context deadline exceeded"), None);
    check(failed(2, "command timed out"), None);
    check(
        failed(5, "failed to find container \"c\" in store: not found"),
        Some(Error(
            "rpc error: code = NotFound desc = failed to find container \"c\" in store: not found".into(),
        )),
    );
    check(
        failed(2, "container is in CONTAINER_EXITED state"),
        Some(Error("rpc error: code = Unknown desc = container is in CONTAINER_EXITED state".into())),
    );
    let away = CriError::new("ExecSync", CriErrorKind::Unreachable, "nothing listens on /run/x.sock");
    let text = "rpc error: code = Unavailable desc = nothing listens on /run/x.sock";
    check(Err(away), Some(Error(text.into())));
}

#[test]
fn errors_of_two_runs_are_equal() {
    let check = |words: &str, expected: &str| {
        let answer = Err(CriError::from_answer("ExecSync", 2, words));
        let text = format!("rpc error: code = Unknown desc = {expected}");
        assert_eq!(outcome(answer), Some(ProbeOutcome::Error(text)));
    };
    let id = "4b84".repeat(16);
    check(
        &format!("failed to exec in container: failed to start exec \"{id}\": no \"x\" in $PATH"),
        "failed to exec in container: failed to start exec: no \"x\" in $PATH",
    );
    check("cannot exec \"ls\" here", "cannot exec \"ls\" here");
    check("cannot exec \"", "cannot exec \"");
}

#[test]
fn output_is_cut_and_need_not_be_text() {
    let long = v1::ExecSyncResponse { exit_code: 1, stdout: vec![b'x'; 20 << 10], ..Default::default() };
    check(Ok(long), Some(ProbeOutcome::Failure("x".repeat(10 << 10))));
    let odd = v1::ExecSyncResponse { exit_code: 1, stdout: vec![0xff, b'a'], ..Default::default() };
    check(Ok(odd), Some(ProbeOutcome::Failure("\u{fffd}a".into())));
}

#[test]
fn commands_are_expanded_with_static_variables_only() {
    let variable = |name: &str, value: Option<&str>| EnvVar {
        name: name.into(),
        value: value.map(str::to_owned),
        ..EnvVar::default()
    };
    let env = vec![
        variable("A", Some("1")),
        variable("A", Some("2")),
        variable("FROM", None),
        variable("NESTED", Some("$(A)")),
    ];
    let container = Container { env: Some(env), ..Container::default() };
    let words = ["$(A)", "x$(FROM)y", "$(NESTED)", "$(MISSING)", "$$(A)"].map(str::to_owned);
    assert_eq!(expanded(&words, &container), ["2", "xy", "$(A)", "$(MISSING)", "$(A)"]);
    assert_eq!(expanded(&[], &container), Vec::<String>::new());
}

#[test]
fn a_timeout_has_upstreams_text() {
    let command = ["sh".to_owned(), "-c".to_owned(), "echo \"x\"\nsleep 9".to_owned()];
    assert_eq!(
        timed_out(&command, Duration::from_secs(90)),
        ProbeOutcome::Failure(
            "command timed out: \"sh -c echo \\\"x\\\"\\nsleep 9\" timed out after 1m30s".into()
        )
    );
    assert_eq!([0, 1_000, 1_001].map(|millis| whole_seconds(Duration::from_millis(millis))), [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_runtime_has_time_and_a_silent_one_does_not_hold_the_probe() {
    let late = Some((11_900, ended(0, "", "")));
    assert_eq!(run_call(late, None).await, Some(ProbeOutcome::Success), "it began late");
    let begun = Instant::now();
    assert_eq!(run_call(None, None).await, None);
    assert_eq!(begun.elapsed(), Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_answers_nobody_says_nothing_about_the_container() {
    async fn check(version: CriFuture<v1::VersionResponse>, expected: ProbeOutcome) {
        assert_eq!(blame(version, &["check".to_owned()], TIMEOUT).await, expected);
    }
    let slow = timed_out(&["check".to_owned()], TIMEOUT);
    let answer = |answer: Result<v1::VersionResponse, CriError>| futures::future::ready(answer).boxed();
    check(answer(Ok(v1::VersionResponse::default())), slow.clone()).await;
    let error = |kind| CriError::new("Version", kind, "no");
    check(answer(Err(error(CriErrorKind::Unknown))), slow).await;
    let away = ProbeOutcome::Error("rpc error: code = Unavailable desc = no".into());
    check(answer(Err(error(CriErrorKind::Unreachable))), away).await;
    let hangs = ProbeOutcome::Error("the container runtime does not answer".into());
    check(futures::future::pending().boxed(), hangs).await;
}

/// Knows the command's first process, which ends at a given time; says what it is asked.
#[derive(Clone)]
struct Watch {
    ends_at: Instant,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    fn new(millis: u64) -> Self {
        Self { ends_at: Instant::now() + Duration::from_millis(millis), asked: Arc::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl ExecWatch for Watch {
    fn spot(
        &self,
        container: &ContainerId,
        command: &[String],
        running_for: Duration,
    ) -> BoxFuture<'static, Option<Box<dyn SpottedExec>>> {
        self.asked.lock().unwrap().push(format!("spot {container} {command:?} {running_for:?}"));
        let spotted: Box<dyn SpottedExec> = Box::new(self.clone());
        futures::future::ready(Some(spotted)).boxed()
    }
}

impl SpottedExec for Watch {
    fn ended(&self) -> BoxFuture<'_, ()> {
        sleep_until(self.ends_at).boxed()
    }

    fn clean_up(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move { self.asked.lock().unwrap().push("clean up".into()) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_timed_out_command_left_is_cleaned_up() {
    let spot = "spot c [\"check\"] 1.5s";
    let timeout = || CriError::from_answer("ExecSync", 4, "timeout 2s exceeded");

    // The runtime says so.
    let watch = Watch::new(2_000);
    assert_eq!(run_call(Some((2_050, Err(timeout()))), Some(&watch)).await, None);
    assert_eq!(watch.asked(), [spot, "clean up"]);

    // It killed the first process and waits for output.
    let watch = Watch::new(2_000);
    let begun = Instant::now();
    assert_eq!(run_call(None, Some(&watch)).await, None);
    assert_eq!((begun.elapsed(), watch.asked().len()), (Duration::from_secs(3), 2));

    // It does nothing at all, and the process lives on.
    let watch = Watch::new(1_000_000);
    let begun = Instant::now();
    assert_eq!(run_call(None, Some(&watch)).await, None);
    assert_eq!((begun.elapsed(), watch.asked().len()), (Duration::from_secs(13), 2));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_command_that_ends_in_time_is_touched() {
    let watch = Watch::new(0);
    assert_eq!(run_call(Some((1_400, ended(0, "", ""))), Some(&watch)).await, Some(ProbeOutcome::Success));
    assert_eq!(watch.asked(), Vec::<String>::new(), "nobody looks for what ends early");
    let watch = Watch::new(1_900);
    let failed = Some(ProbeOutcome::Failure("no".into()));
    assert_eq!(run_call(Some((1_950, ended(1, "no", ""))), Some(&watch)).await, failed);
    assert_eq!(watch.asked().len(), 1, "only looked for");
}

#[tokio::test(start_paused = true)]
async fn what_ended_in_time_is_not_held_to_a_runtime_that_is_slow_to_say_so() {
    let watch = Watch::new(1_900);
    let late = Some((9_000, ended(0, "", "")));
    assert_eq!(run_call(late, Some(&watch)).await, Some(ProbeOutcome::Success));
    // Nor for ever.
    let (watch, begun) = (Watch::new(1_900), Instant::now());
    assert_eq!(run_call(None, Some(&watch)).await, None);
    assert_eq!((begun.elapsed(), watch.asked().len()), (Duration::from_secs(12), 2));
}
