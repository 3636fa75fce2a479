//! Which images go, in tables.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;
const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn policy() -> ImagePolicy {
    ImagePolicy { high_percent: 85, low_percent: 80, min_age: secs(120), max_age: None }
}

fn image(id: &str, size: u64) -> ListedImage {
    ListedImage {
        id: id.to_owned(),
        names: vec![format!("r.example/{id}:v1")],
        size,
        ..ListedImage::default()
    }
}

fn images(ids: &[&str]) -> Vec<ListedImage> {
    ids.iter().map(|id| image(id, 10)).collect()
}

fn uses(references: &[&str]) -> ImageUse {
    references.iter().copied().collect()
}

#[track_caller]
fn check(book: &ImageBook, policy: &ImagePolicy, need: Option<Need>, now: u64, expected: &[(&str, Why)]) {
    let plan = book.plan(policy, need, secs(now));
    let found: Vec<(&str, Why)> = plan.remove.iter().map(|r| (r.image.id.as_str(), r.why)).collect();
    assert_eq!(found, expected);
}

#[test]
fn images_are_known_by_id_and_by_every_writing_of_their_names() {
    let listed = ListedImage {
        id: format!("sha256:{HEX}"),
        names: vec!["docker.io/library/nginx:latest".into(), format!("docker.io/library/nginx@sha256:{HEX}")],
        ..ListedImage::default()
    };
    for reference in [
        "nginx",
        "nginx:latest",
        "docker.io/nginx",
        "docker.io/library/nginx:latest",
        HEX,
        &format!("sha256:{HEX}"),
        &format!("nginx:v7@sha256:{HEX}"),
    ] {
        assert!(uses(&[reference]).covers(&listed), "{reference}");
    }
    for reference in ["", "nginx:v1", "other", "r.example/library/nginx", &HEX[..12]] {
        assert!(!uses(&[reference]).covers(&listed), "{reference}");
    }
}

#[test]
fn those_unused_for_longest_go_first_and_only_as_many_as_needed() {
    let mut book = ImageBook::default();
    book.see(images(&["never", "early", "late", "now"]), &uses(&["early", "late", "now"]), secs(0));
    book.see(images(&["never", "early", "late", "now"]), &uses(&["late", "now"]), secs(300));
    book.see(images(&["never", "early", "late", "now"]), &uses(&["now"]), secs(600));
    let space = |id| (id, Why::Space);
    check(&book, &policy(), Some(Need::Bytes(1)), 600, &[space("never")]);
    check(&book, &policy(), Some(Need::Bytes(11)), 600, &[space("never"), space("early")]);
    check(&book, &policy(), Some(Need::All), 600, &[space("never"), space("early"), space("late")]);
    check(&book, &policy(), None, 600, &[]);
    let plan = book.plan(&policy(), None, secs(600));
    assert_eq!((plan.unused, plan.unused_bytes, plan.kept, plan.next_due), (3, 30, 1, None));
}

#[test]
fn a_use_that_was_noted_between_two_lists_counts() {
    let mut book = ImageBook::default();
    book.see(images(&["a", "b"]), &uses(&[]), secs(0));
    book.note(&uses(&["r.example/a:v1"]), secs(100));
    book.see(images(&["a", "b"]), &uses(&[]), secs(600));
    check(&book, &policy(), Some(Need::Bytes(1)), 600, &[("b", Why::Space)]);
}

#[test]
fn the_young_the_pinned_and_the_needed_stay() {
    let mut book = ImageBook::default();
    let pinned = ListedImage { pinned: true, ..image("pinned", 10) };
    book.see([images(&["used", "old"]), vec![pinned.clone()]].concat(), &uses(&["used"]), secs(0));
    book.see(
        [images(&["used", "old", "young"]), vec![pinned]].concat(),
        &uses(&["r.example/used:v1"]),
        secs(500),
    );
    check(&book, &policy(), Some(Need::All), 600, &[("old", Why::Space)]);
    assert_eq!(book.plan(&policy(), Some(Need::All), secs(600)).next_due, Some(secs(620)));
    check(&book, &policy(), Some(Need::All), 620, &[("old", Why::Space), ("young", Why::Space)]);
    assert_eq!(book.ids().len(), 4);
}

#[test]
fn age_counts_when_the_agent_has_run_for_as_long() {
    let aged = ImagePolicy { max_age: Some(secs(3600)), ..policy() };
    let mut book = ImageBook::default();
    assert_eq!(book.oldest_due(&aged), None);
    book.see(images(&["a", "b"]), &uses(&["b"]), secs(0));
    assert_eq!(book.oldest_due(&aged), Some(secs(3600)));
    assert_eq!(book.oldest_due(&policy()), None);
    check(&book, &aged, None, 3600, &[]);
    check(&book, &aged, None, 3601, &[("a", Why::Age)]);
    // What goes for its age counts towards what is needed.
    book.see(images(&["a", "b"]), &uses(&["b"]), secs(3600));
    book.see(images(&["a", "b"]), &uses(&[]), secs(3601));
    check(&book, &aged, Some(Need::Bytes(10)), 3601, &[("a", Why::Age)]);
    check(&book, &aged, Some(Need::Bytes(11)), 3601, &[("a", Why::Age), ("b", Why::Space)]);
    book.removed(&image("a", 10));
    assert_eq!(book.ids().into_iter().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn one_that_is_gone_and_comes_back_is_young_again() {
    let mut book = ImageBook::default();
    book.see(images(&["a"]), &uses(&[]), secs(0));
    book.see(vec![], &uses(&[]), secs(300));
    book.see(images(&["a"]), &uses(&[]), secs(600));
    check(&book, &policy(), Some(Need::All), 601, &[]);
}

#[test]
fn notes_are_bounded() {
    let mut book = ImageBook::default();
    for round in 0..5_u64 {
        let names: Vec<String> = (0..1000).map(|n| format!("r.example/{round}-{n}:v1")).collect();
        book.note(&names.iter().map(String::as_str).collect(), secs(round));
    }
    let last = ListedImage { names: vec!["r.example/4-7:v1".into()], ..image("x", 1) };
    book.see(vec![last, image("y", 1)], &uses(&[]), secs(5));
    check(
        &book,
        &ImagePolicy { min_age: secs(0), ..policy() },
        Some(Need::Bytes(1)),
        5,
        &[("y", Why::Space)],
    );
}

#[test]
fn shortages_are_upstreams() {
    let check = |capacity, available, expected: Option<(u8, u64)>| {
        let found = shortage(&policy(), capacity, available).unwrap();
        assert_eq!(found.map(|s| (s.used_percent, s.bytes)), expected, "{available} of {capacity}");
    };
    check(1000, 400, None);
    check(1000, 151, Some((85, 49)));
    check(1000, 150, Some((85, 50)));
    check(1000, 160, None);
    check(1000, 0, Some((100, 200)));
    check(1000, 2000, None);
    check(u64::MAX, 0, Some((100, u64::MAX / 100 * 20 + 3)));
    assert_eq!(shortage(&policy(), 0, 0), Err(InvalidCapacity));
    let never = ImagePolicy { high_percent: 100, low_percent: 99, ..policy() };
    assert_eq!(shortage(&never, 1000, 10).unwrap(), None);
}

#[test]
fn the_message_has_upstreams_words_and_what_is_left() {
    let left = ImagePlan { unused: 1, unused_bytes: 512, kept: 3, ..ImagePlan::default() };
    let shortage = Shortage { used_percent: 92, capacity: 1536 * MIB, bytes: 9 };
    assert_eq!(
        free_space_failed(&shortage, 7, &left),
        "Insufficient free disk space on the node's image filesystem (92% of 1.5 GiB used). Failed to free \
         sufficient space by deleting unused images (freed 7 bytes). Investigate disk usage, as it could be used by \
         active images, logs, volumes, or other data. 3 images are needed or pinned; 1 unused ones of 512 B are left."
    );
    for (bytes, text) in
        [(2048, "2.0 KiB"), (5 * MIB + MIB / 4, "5.3 MiB"), (3 << 40, "3.0 TiB"), (5000 << 40, "5000.0 TiB")]
    {
        let shortage = Shortage { used_percent: 92, capacity: bytes, bytes: 9 };
        let message = free_space_failed(&shortage, 7, &left);
        assert!(message.contains(&format!("92% of {text} used")), "{message}");
    }
}

proptest! {
    /// Nothing needed, pinned or young is ever in a plan, nothing twice, and no plan is longer than it has to be.
    #[test]
    fn plans_are_safe_and_short(
        listed in proptest::collection::btree_map("[a-h]", (0_u64..50, any::<bool>(), 0_u64..300), 0..8),
        used in proptest::collection::btree_set("[a-h]", 0..8),
        need in 0_u64..200,
        max_age in proptest::option::of(1_u64..600),
    ) {
        let mut book = ImageBook::default();
        let mut arrivals: Vec<_> = listed.iter().collect();
        arrivals.sort_by_key(|(_, (_, _, at))| *at);
        let all = |until: u64| listed.iter().filter(|(_, (_, _, at))| *at <= until)
            .map(|(id, (size, pinned, _))| ListedImage { pinned: *pinned, ..image(id, *size) }).collect::<Vec<_>>();
        for (_, (_, _, at)) in &arrivals {
            book.see(all(*at), &ImageUse::default(), secs(*at));
        }
        let in_use: ImageUse = used.iter().map(String::as_str).collect();
        book.see(all(300), &in_use, secs(300));
        let policy = ImagePolicy { max_age: max_age.map(secs), ..policy() };
        let plan = book.plan(&policy, Some(Need::Bytes(need)), secs(301));
        let mut seen = std::collections::BTreeSet::new();
        let mut before_last = 0;
        for (index, removal) in plan.remove.iter().enumerate() {
            let id = &removal.image.id;
            prop_assert!(seen.insert(id.clone()));
            prop_assert!(!used.contains(id) && !removal.image.pinned);
            if removal.why == Why::Space {
                prop_assert!(listed[id].2 + 120 <= 301);
            }
            if index + 1 < plan.remove.len() { before_last += removal.image.size; }
        }
        if plan.remove.last().is_some_and(|last| last.why == Why::Space) {
            prop_assert!(before_last < need);
        }
        prop_assert_eq!((plan.unused + plan.kept) as usize, listed.len());
    }
}
