//! Lines of kernels of many versions, and lines that are none.

use proptest::prelude::*;

use super::*;

/// Puts lines into records, a millisecond apart, and tells the kills, one a line.
fn kills(lines: &str) -> String {
    let records = lines.trim().lines().enumerate().map(|(number, line)| {
        let line = line.trim_start();
        match line.split_once(';').filter(|(head, _)| head.split(',').count() >= 4) {
            Some(_) => line.to_owned(),
            None => format!("6,{number},{},-;{line}", number * 1000),
        }
    });
    let mut parser = OomParser::default();
    let mut text = String::new();
    for kill in records.filter_map(|record| parser.record(record.as_bytes())) {
        let OomKill { process, pid, task_memcg, oom_memcg, constraint, limit, shmem, at: _ } = kill;
        let or = |group: Option<String>| group.unwrap_or_else(|| "?".into());
        text += &format!("{process} {pid} in {} limit of {} {constraint:?}", or(task_memcg), or(oom_memcg));
        text += &limit.map(|limit| format!(" {limit}")).unwrap_or_default();
        text += &shmem.map(|shmem| format!(" shmem {shmem}")).unwrap_or_default();
        text += "\n";
    }
    text
}

#[track_caller]
fn check(lines: &str, expected: &str) {
    assert_eq!(kills(lines).trim(), expected);
}

#[test]
fn linux_6_in_a_limit() {
    check(
        "
        tail invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
        CPU: 1 UID: 0 PID: 11740 Comm: tail Not tainted 6.18.44 #1 PREEMPT(voluntary)
        Call Trace:
         oom_kill_process.cold+0x8/0x8a
        memory: usage 19532kB, limit 19532kB, failcnt 24
        memory+swap: usage 19532kB, limit 9007199254740988kB, failcnt 0
        Memory cgroup stats for /h5test:
        anon 19808256
        shmem 4096
        shmem_thp 0
        Tasks state (memory values in pages):
        [  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
        [  11740]     0 11740     5548     5221     4832      389         0    86016        0             0 tail
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/h5test,task_memcg=/h5test/a b,task=tail,pid=11740,uid=0
        Memory cgroup out of memory: Killed process 11740 (tail) total-vm:22192kB, anon-rss:19328kB, file-rss:1556kB, shmem-rss:0kB, UID:0 pgtables:84kB oom_score_adj:0
        oom_reaper: reaped process 11740 (tail), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
        ",
        "tail 11740 in /h5test/a b limit of /h5test Memcg 20000768 shmem 4096",
    );
}

#[test]
fn linux_5_and_6_on_the_whole_node() {
    check(
        "
        stress invoked oom-killer: gfp_mask=0x1100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=1000
        oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=cri-containerd-x.scope,mems_allowed=0,global_oom,task_memcg=/kubepods.slice/kubepods-pod1.slice/cri-containerd-x.scope,task=stress,pid=2411,uid=1000
        Out of memory: Killed process 2411 (stress) total-vm:3153600kB, anon-rss:2987212kB, file-rss:272kB, shmem-rss:0kB, UID:1000 pgtables:5900kB oom_score_adj:1000
        ",
        "stress 2411 in /kubepods.slice/kubepods-pod1.slice/cri-containerd-x.scope limit of ? Node",
    );
    check(
        "
        oom-kill:constraint=CONSTRAINT_CPUSET,nodemask=(null),cpuset=a,mems_allowed=1,global_oom,task_memcg=/a,task=x,pid=1,uid=0
        Out of memory: Killed process 1 (x) total-vm:1kB, anon-rss:1kB, file-rss:2kB, shmem-rss:0kB, UID:0 pgtables:59kB oom_score_adj:0
        ",
        "x 1 in /a limit of ? Cpuset",
    );
}

#[test]
fn linux_5_0_tells_the_chosen_and_then_the_killed() {
    check(
        "
        python3 invoked oom-killer: gfp_mask=0x6000c0(GFP_KERNEL), order=0, oom_score_adj=985
        memory: usage 51200kB, limit 51200kB, failcnt 77
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=fe6,mems_allowed=0,oom_memcg=/kubepods/burstable/pod1,task_memcg=/kubepods/burstable/pod1/fe6,task=python3,pid=77,uid=0
        Memory cgroup out of memory: Kill process 77 (python3) score 1909 or sacrifice child
        Killed process 80 (sh) total-vm:1596kB, anon-rss:40kB, file-rss:4kB, shmem-rss:0kB
        ",
        "sh 80 in /kubepods/burstable/pod1/fe6 limit of /kubepods/burstable/pod1 Memcg 52428800",
    );
}

#[test]
fn linux_3_and_4() {
    check(
        "
        tail invoked oom-killer: gfp_mask=0x14000c0(GFP_KERNEL), nodemask=(null), order=0, oom_score_adj=968
        tail cpuset=6fd mems_allowed=0
        Task in /kubepods/burstable/poda/6fd killed as a result of limit of /kubepods/burstable/poda/6fd
        memory: usage 102400kB, limit 102400kB, failcnt 1063
        Memory cgroup out of memory: Kill process 5347 (tail) score 1940 or sacrifice child
        Killed process 5347 (tail) total-vm:98996kB, anon-rss:97756kB, file-rss:540kB, shmem-rss:0kB
        ",
        "tail 5347 in /kubepods/burstable/poda/6fd limit of /kubepods/burstable/poda/6fd Memcg 104857600",
    );
    check(
        "
        mysqld invoked oom-killer: gfp_mask=0x201da, order=0, oom_score_adj=0
        Mem-Info:
        Out of memory: Kill process 4921 (chrome) score 12 or sacrifice child
        Killed process 4921 (chrome), UID 1000, total-vm:98996kB, anon-rss:97756kB, file-rss:540kB
        ",
        "chrome 4921 in ? limit of ? Node",
    );
    check(
        "
        a invoked oom-killer: gfp_mask=0x201da, order=0
        Out of memory: Kill process 4921 (a) score 12 or sacrifice child
        Killed process 4921, UID 1000, (a (b)) total-vm:98996kB, anon-rss:97756kB
        ",
        "a (b) 4921 in ? limit of ? Node",
    );
}

#[test]
fn fragments_of_a_line_are_put_together() {
    let expected = "tail 5347 in /a/b limit of /a Memcg";
    check(
        "
        4,1,1,-;tail invoked oom-killer: gfp_mask=0x14000c0
        6,2,2,c;Task in /a/b
        6,3,3,+; killed as a result of
        6,4,4,+; limit of /a
        3,5,5,-;Memory cgroup out of memory: Kill process 5347 (tail) score 1940 or sacrifice child
        3,6,6,-;Killed process 5347 (tail) total-vm:98996kB, anon-rss:97756kB
        ",
        expected,
    );
    check(
        "
        6,2,2,-;Task in /a/b
        6,3,3,c; killed as a result of limit of /a
        3,5,5,-;Memory cgroup out of memory: Kill process 5347 (tail) score 1940 or sacrifice child
        3,6,6,-;Killed process 5347 (tail) total-vm:98996kB, anon-rss:97756kB
        ",
        expected,
    );
}

#[test]
fn a_group_that_is_killed_as_a_whole() {
    check(
        "
        sh invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
        memory: usage 1024kB, limit 1024kB, failcnt 77
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p/c/sub,task=tail,pid=12,uid=0
        Memory cgroup out of memory: Killed process 12 (tail) total-vm:2kB, anon-rss:1kB
        Tasks in /p/c are going to be killed due to memory.oom.group set
        Memory cgroup out of memory: Killed process 10 (sh) total-vm:2kB, anon-rss:1kB
        Memory cgroup out of memory: Killed process 12 (tail) total-vm:2kB, anon-rss:1kB
        Memory cgroup out of memory: Killed process 13 (cat) total-vm:2kB, anon-rss:1kB
        6,99,5000000,-;Memory cgroup out of memory: Killed process 99 (late) total-vm:2kB, anon-rss:1kB
        ",
        "tail 12 in /p/c/sub limit of /p Memcg 1048576\n\
         sh 10 in /p/c limit of /p Memcg 1048576\n\
         cat 13 in /p/c limit of /p Memcg 1048576\n\
         late 99 in ? limit of ? Memcg",
    );
}

#[test]
fn a_kill_without_a_report_is_not_given_the_group_of_another() {
    check(
        "
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p,task=a,pid=1,uid=0
        Memory cgroup out of memory: Killed process 1 (a) total-vm:2kB
        Memory cgroup out of memory: Killed process 2 (b) total-vm:2kB
        Out of memory: Killed process 3 (c) total-vm:2kB
        Killed process 4 (d) total-vm:2kB
        ",
        "a 1 in /p limit of /p Memcg\nb 2 in ? limit of ? Memcg\nc 3 in ? limit of ? Node",
    );
    // The chosen one ended by itself.
    check(
        "
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p,task=a,pid=1,uid=0
        OOM victim 1 (a) is already exiting. Skip killing the task
        Memory cgroup out of memory: Killed process 2 (b) total-vm:2kB
        ",
        "b 2 in ? limit of ? Memcg",
    );
}

#[test]
fn names_may_look_like_anything() {
    check(
        "
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,x,task_memcg=/p,x/y,task=,pid=1,uid=0,pid=7,uid=0
        Memory cgroup out of memory: Killed process 7 (,pid=1,uid=0) total-vm:2kB
        oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p,task=a) (\\x0a,pid=8,uid=0
        Memory cgroup out of memory: Killed process 8 (a) (\\x0a) total-vm:2kB
        ",
        ",pid=1,uid=0 7 in /p,x/y limit of /p,x Memcg\na) (\\x0a 8 in /p limit of /p Memcg",
    );
}

#[test]
fn what_programs_write_is_not_believed() {
    check(
        "
        12,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p,task=a,pid=1,uid=0
        11,2,2,-;Memory cgroup out of memory: Killed process 1 (a) total-vm:2kB
        ",
        "",
    );
    check("systemd: Killed process 1 (a) total-vm:2kB\nlowmemorykiller: Killing 'x' (1)", "");
}

#[test]
fn lost_records_end_a_report() {
    let mut parser = OomParser::default();
    let first = "6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/p,task_memcg=/p,task=a,pid=1,uid=0";
    let second = "3,2,2,-;Memory cgroup out of memory: Killed process 1 (a) total-vm:2kB\n SUBSYSTEM=x\n";
    parser.record(first.as_bytes());
    assert_eq!(parser.record(second.as_bytes()).unwrap().task_memcg.as_deref(), Some("/p"));
    parser.record(first.as_bytes());
    parser.lost();
    let kill = parser.record(second.as_bytes()).unwrap();
    assert_eq!((kill.task_memcg, kill.at), (None, Duration::from_micros(2)));
}

/// Lines that begin like real ones.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let starts = prop_oneof![
        Just("6,1,1,-;"),
        Just("6,1,1,c;Task in /a"),
        Just("6,1,1,+; killed as a result of limit of /b"),
        Just("6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/b,task="),
        Just("6,1,1,-;oom-kill:constraint="),
        Just("6,1,1,-;Tasks in /a are going to be killed due to memory.oom.group set"),
        Just("6,1,1,-;memory: usage 1kB, limit "),
        Just("6,1,1,-;shmem "),
        Just("6,1,1,-;Memory cgroup out of memory: Killed process 1 ("),
        Just("6,1,1,-;Killed process "),
        Just(""),
    ];
    let rest = prop_oneof![
        any::<Vec<u8>>(),
        "[a-z0-9,=()é]{0,20}".prop_map(String::into_bytes),
        Just(b",pid=1,uid=0".to_vec()),
    ];
    (starts, rest).prop_map(|(start, rest)| [start.as_bytes(), &rest].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(records in proptest::collection::vec(line(), 0..20)) {
        let mut parser = OomParser::default();
        for record in &records {
            if let Some(kill) = parser.record(record) {
                prop_assert!(kill.process.len() <= record.len());
            }
            prop_assert!(parser.line.len() <= LINE_LIMIT + record.len());
        }
    }
}
