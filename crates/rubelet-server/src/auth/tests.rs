//! The gate as a client meets it: who gets in with what, in which words others are refused, and how often the API server
//! is asked.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::*;

type Asked<Q, A> = Arc<Mutex<(Vec<Q>, VecDeque<Result<A, ReviewError>>)>>;

/// An API server that says what it is told to, one second after it was asked, and the last thing again and again.
struct Scripted<Q, A>(Asked<Q, A>);

impl<Q, A: Clone + Send + 'static> Scripted<Q, A> {
    fn new(answers: impl IntoIterator<Item = Result<A, ReviewError>>) -> (Arc<Self>, Asked<Q, A>) {
        let asked: Asked<Q, A> = Arc::new(Mutex::new((Vec::new(), answers.into_iter().collect())));
        (Arc::new(Self(asked.clone())), asked)
    }

    fn answer(&self, question: Q) -> BoxFuture<'static, Result<A, ReviewError>> {
        let mut state = self.0.lock().unwrap();
        state.0.push(question);
        let answer = match state.1.len() {
            1 => state.1[0].clone(),
            _ => state.1.pop_front().unwrap(),
        };
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer
        }
        .boxed()
    }
}

impl TokenReviews for Scripted<String, TokenAnswer> {
    fn review(&self, token: &str) -> BoxFuture<'static, Result<TokenAnswer, ReviewError>> {
        self.answer(token.to_owned())
    }
}

impl AccessReviews for Scripted<AccessQuestion, AccessAnswer> {
    fn review(&self, question: AccessQuestion) -> BoxFuture<'static, Result<AccessAnswer, ReviewError>> {
        self.answer(question)
    }
}

/// Accepts certificates from this machine only.
struct Local;

impl ClientCertificates for Local {
    fn verify<'a>(&self, peer: &'a Peer) -> Option<&'a CertificateDer<'static>> {
        peer.certificates.first().filter(|_| peer.address.ip().is_loopback())
    }
}

fn peer(address: &str, common_name: Option<&str>) -> Peer {
    let certificates = common_name.map(|name| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "readers");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    });
    Peer {
        certificates: certificates.into_iter().collect(),
        address: format!("{address}:1").parse().unwrap(),
    }
}

fn nobody() -> Peer {
    peer("127.0.0.1", None)
}

fn get(path: &str, token: Option<&str>) -> Request<()> {
    let request = Request::get(path);
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
    .body(())
    .unwrap()
}

fn robot() -> TokenAnswer {
    let user = UserInfo { name: "robot".to_owned(), uid: "7".to_owned(), ..UserInfo::default() };
    TokenAnswer { user: Some(user), error: String::new() }
}

fn unknown(error: &str) -> TokenAnswer {
    TokenAnswer { user: None, error: error.to_owned() }
}

fn trouble(passing: bool) -> ReviewError {
    ReviewError { message: "it rains".to_owned(), passing }
}

fn tokens(
    answers: impl IntoIterator<Item = Result<TokenAnswer, ReviewError>>,
) -> (Gate, Asked<String, TokenAnswer>) {
    let (reviews, asked) = Scripted::new(answers);
    let authentication = Authentication {
        certificates: Some(Arc::new(Local)),
        tokens: Some((reviews, Duration::from_secs(120))),
        anonymous: true,
    };
    (Gate::new(authentication, Authorization::AlwaysAllow, "n1").unwrap(), asked)
}

fn webhook(
    answers: impl IntoIterator<Item = Result<AccessAnswer, ReviewError>>,
) -> (Gate, Asked<AccessQuestion, AccessAnswer>) {
    let (reviews, asked) = Scripted::new(answers);
    let authorization = Authorization::Webhook {
        reviews,
        authorized_ttl: Duration::from_secs(300),
        unauthorized_ttl: Duration::from_secs(30),
    };
    let authentication =
        Authentication { certificates: Some(Arc::new(Local)), tokens: None, anonymous: true };
    (Gate::new(authentication, authorization, "n1").unwrap(), asked)
}

const YES: Result<AccessAnswer, ReviewError> = Ok(AccessAnswer { allowed: true, denied: false });
const NO: Result<AccessAnswer, ReviewError> = Ok(AccessAnswer { allowed: false, denied: false });

fn count<Q, A>(asked: &Asked<Q, A>) -> usize {
    asked.lock().unwrap().0.len()
}

/// The user's name, or code and text of the refusal.
async fn told(gate: &Gate, peer: &Peer, request: &Request<()>) -> Result<String, (u16, String)> {
    match gate.admit(peer, request).await {
        Ok(user) => Ok(user.name.clone()),
        Err(response) => {
            let code = response.status().as_u16();
            if code >= 400 {
                assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            }
            let body = response.into_body().collect().await.unwrap().to_bytes();
            Err((code, String::from_utf8(body.to_vec()).unwrap()))
        }
    }
}

fn unauthorized() -> Result<String, (u16, String)> {
    Err((401, "Unauthorized".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn certificates_come_first_then_tokens_then_nobody() {
    let (gate, asked) = tokens([Ok(robot()), Ok(unknown("no such token"))]);
    let (good, bad) = (peer("127.0.0.1", Some("jane")), peer("10.0.0.1", Some("jane")));
    assert_eq!(told(&gate, &good, &get("/pods", Some("tok"))).await.unwrap(), "jane");
    assert_eq!(count(&asked), 0);
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await.unwrap(), "robot");
    // A bad certificate does not spoil a good token, but nobody gets in anonymously with it.
    assert_eq!(told(&gate, &bad, &get("/pods", Some("tok"))).await.unwrap(), "robot");
    assert_eq!(told(&gate, &bad, &get("/pods", None)).await, unauthorized());
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("made-up"))).await, unauthorized());
    assert_eq!(told(&gate, &nobody(), &get("/pods", None)).await.unwrap(), "system:anonymous");
    // A certificate without a name is nobody's.
    let nameless = peer("127.0.0.1", Some(""));
    assert_eq!(told(&gate, &nameless, &get("/pods", None)).await.unwrap(), "system:anonymous");
}

#[tokio::test(start_paused = true)]
async fn groups_say_who_has_proved_who_they_are() {
    let groups = async |gate: &Gate, peer: &Peer, token: Option<&str>| {
        gate.admit(peer, &get("/", token)).await.unwrap().groups.clone()
    };
    let in_groups = |groups: &[&str]| TokenAnswer {
        user: Some(UserInfo {
            name: "u".to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        }),
        error: String::new(),
    };
    let (gate, _) = tokens([
        Ok(in_groups(&["a"])),
        Ok(in_groups(&["system:authenticated", "a"])),
        Ok(in_groups(&["system:unauthenticated"])),
    ]);
    assert_eq!(groups(&gate, &nobody(), None).await, ["system:unauthenticated"]);
    assert_eq!(
        groups(&gate, &peer("127.0.0.1", Some("jane")), None).await,
        ["readers", "system:authenticated"]
    );
    assert_eq!(groups(&gate, &nobody(), Some("1")).await, ["a", "system:authenticated"]);
    assert_eq!(groups(&gate, &nobody(), Some("2")).await, ["system:authenticated", "a"]);
    assert_eq!(groups(&gate, &nobody(), Some("3")).await, ["system:unauthenticated"]);
}

#[tokio::test(start_paused = true)]
async fn without_anonymous_nothing_is_401_and_without_methods_there_is_no_gate() {
    let only_certificates =
        || Authentication { certificates: Some(Arc::new(Local)), tokens: None, anonymous: false };
    let gate = Gate::new(only_certificates(), Authorization::AlwaysAllow, "n1").unwrap();
    assert_eq!(told(&gate, &nobody(), &get("/healthz", None)).await, unauthorized());
    // Tokens are not looked at.
    assert_eq!(told(&gate, &nobody(), &get("/healthz", Some("tok"))).await, unauthorized());
    let none = Gate::new(Authentication::default(), Authorization::AlwaysAllow, "n1").err().unwrap();
    assert_eq!(none.to_string(), "no authentication method configured");
}

#[tokio::test(start_paused = true)]
async fn many_requests_with_one_token_make_one_review() {
    let (gate, asked) = tokens([Ok(robot())]);
    let request = get("/metrics", Some("tok"));
    let nobody = nobody();
    let all = join_all((0..500).map(|_| told(&gate, &nobody, &request))).await;
    assert!(all.iter().all(|told| told.as_deref() == Ok("robot")));
    assert_eq!(count(&asked), 1);
    assert_eq!(asked.lock().unwrap().0, ["tok"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_a_token_holds_for_the_ttl() {
    let (gate, asked) = tokens([Ok(robot())]);
    let request = get("/metrics", Some("tok"));
    for (pause, reviews) in [(0, 1), (119, 1), (1, 2), (60, 2)] {
        tokio::time::advance(Duration::from_secs(pause)).await;
        told(&gate, &nobody(), &request).await.unwrap();
        assert_eq!(count(&asked), reviews, "after {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_no_is_remembered_and_one_with_an_error_is_not() {
    for (answer, reviews) in [(unknown(""), 1), (unknown("[invalid bearer token]"), 3)] {
        let (gate, asked) = tokens([Ok(answer)]);
        for _ in 0..3 {
            assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await, unauthorized());
        }
        assert_eq!(count(&asked), reviews);
    }
}

#[tokio::test(start_paused = true)]
async fn passing_trouble_is_tried_again_and_other_trouble_is_not() {
    let (gate, asked) = tokens([Err(trouble(true)), Err(trouble(true)), Ok(robot())]);
    let begin = tokio::time::Instant::now();
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await.unwrap(), "robot");
    assert_eq!(count(&asked), 3);
    // Three answers after a second each, pauses of 0.5 and 0.75 s and up to a fifth more.
    let pauses = begin.elapsed() - Duration::from_secs(3);
    assert!((1250..=1500).contains(&pauses.as_millis()), "{pauses:?}");

    let (gate, asked) = tokens([Err(trouble(true))]);
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await, unauthorized());
    assert_eq!(count(&asked), 5);

    let (gate, asked) = tokens([Err(trouble(false)), Ok(robot())]);
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await, unauthorized());
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await.unwrap(), "robot");
    assert_eq!(count(&asked), 2);
}

struct Silent;

impl TokenReviews for Silent {
    fn review(&self, _: &str) -> BoxFuture<'static, Result<TokenAnswer, ReviewError>> {
        std::future::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_half_a_minute() {
    let authentication =
        Authentication { tokens: Some((Arc::new(Silent), Duration::ZERO)), ..Authentication::default() };
    let gate = Gate::new(authentication, Authorization::AlwaysAllow, "n1").unwrap();
    let begin = tokio::time::Instant::now();
    assert_eq!(told(&gate, &nobody(), &get("/pods", Some("tok"))).await, unauthorized());
    assert_eq!(begin.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn the_narrow_subresource_is_tried_first() {
    let (gate, asked) = webhook([NO, YES]);
    assert_eq!(told(&gate, &nobody(), &get("/pods", None)).await.unwrap(), "system:anonymous");
    let asked = asked.lock().unwrap().0.clone();
    let of = |question: &AccessQuestion| {
        (question.verb, question.subresource, question.node.to_string(), question.user.name.clone())
    };
    let expect = |subresource| ("get", subresource, "n1".to_owned(), "system:anonymous".to_owned());
    assert_eq!(asked.iter().map(of).collect::<Vec<_>>(), [expect("pods"), expect("proxy")]);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_worded_as_upstreams() {
    let check = async |method: &str, path: &str, answer, code: u16, text: &str| {
        let (gate, _) = webhook([answer]);
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let jane = peer("127.0.0.1", Some("jane"));
        assert_eq!(told(&gate, &jane, &request).await, Err((code, text.to_owned())), "{method} {path}");
    };
    check(
        "GET",
        "/pods",
        NO,
        403,
        "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n",
    )
    .await;
    check(
        "POST",
        "/exec/a/b/c",
        NO,
        403,
        "Forbidden (user=jane, verb=create, resource=nodes, subresource(s)=[proxy])\n",
    )
    .await;
    check("HEAD", "/logs/", NO, 403, "Forbidden (user=jane, verb=, resource=nodes, subresource(s)=[log])\n")
        .await;
    let error = "Authorization error (user=jane, verb=get, resource=nodes, subresource=healthz)";
    check("GET", "/healthz/ping", Err(trouble(false)), 500, error).await;
    check("GET", "/healthz", Ok(AccessAnswer { allowed: true, denied: true }), 500, error).await;
    check(
        "GET",
        "/stats/summary",
        Ok(AccessAnswer { allowed: false, denied: true }),
        403,
        "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[stats])\n",
    )
    .await;
    check("GET", "/pods/%zz", YES, 400, "400 Bad Request").await;
}

#[tokio::test(start_paused = true)]
async fn yes_and_no_hold_for_times_of_their_own() {
    let (gate, asked) = webhook([YES]);
    for (pause, reviews) in [(0, 1), (299, 1), (1, 2)] {
        tokio::time::advance(Duration::from_secs(pause)).await;
        told(&gate, &nobody(), &get("/stats/", None)).await.unwrap();
        assert_eq!(count(&asked), reviews, "after {pause} s");
    }
    let (gate, asked) = webhook([NO]);
    for (pause, reviews) in [(0, 1), (29, 1), (1, 2)] {
        tokio::time::advance(Duration::from_secs(pause)).await;
        told(&gate, &nobody(), &get("/stats/", None)).await.unwrap_err();
        assert_eq!(count(&asked), reviews, "after {pause} s");
    }
    // Trouble is not remembered.
    let (gate, asked) = webhook([Err(trouble(false)), YES]);
    told(&gate, &nobody(), &get("/stats/", None)).await.unwrap_err();
    told(&gate, &nobody(), &get("/stats/", None)).await.unwrap();
    assert_eq!(count(&asked), 2);
}

#[tokio::test(start_paused = true)]
async fn each_question_is_its_own() {
    let (gate, asked) = webhook([YES]);
    let (jane, joe) = (peer("127.0.0.1", Some("jane")), peer("127.0.0.1", Some("joe")));
    told(&gate, &jane, &get("/stats/", None)).await.unwrap();
    told(&gate, &jane, &get("/stats/summary?x=1", None)).await.unwrap();
    assert_eq!(count(&asked), 1);
    told(&gate, &jane, &get("/metrics", None)).await.unwrap();
    told(&gate, &joe, &get("/stats/", None)).await.unwrap();
    // The same name with another certificate is another user: its review says so.
    told(&gate, &peer("127.0.0.1", Some("jane")), &get("/stats/", None)).await.unwrap();
    let post = Request::post("/stats/").body(()).unwrap();
    told(&gate, &jane, &post).await.unwrap();
    assert_eq!(count(&asked), 5);
    let requests: Vec<_> = (0..100).map(|_| get("/logs/", None)).collect();
    join_all(requests.iter().map(|request| told(&gate, &jane, request))).await;
    assert_eq!(count(&asked), 6);
}

#[tokio::test(start_paused = true)]
async fn what_is_judged_is_what_is_routed() {
    let (gate, asked) = webhook([YES]);
    let elsewhere = gate.admit(&nobody(), &get("/logs/../exec/a/b/c?x=y", None)).await.unwrap_err();
    assert_eq!(elsewhere.status(), 307);
    assert_eq!(elsewhere.headers()["location"], "/exec/a/b/c?x=y");
    assert_eq!(count(&asked), 0);
    // Escapes are read before the table is.
    told(&gate, &nobody(), &get("/%73tats/summary", None)).await.unwrap();
    assert_eq!(asked.lock().unwrap().0[0].subresource, "stats");
}
