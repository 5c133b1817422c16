//! Attacks. Each is tried for real, inside the sandbox; the honest neighbours of these tests show that nothing of it
//! lasts.

use rollout::outcome::{Outcome, Phase};

use crate::fixtures::*;
use crate::lab::LIMITS;
use crate::lab_or_skip;

const PASSED: Outcome = Outcome::Passed { speedup: None };

/// The attack must fail quietly: the candidate is honest otherwise, and raises when it got what it wanted.
#[track_caller]
fn assert_harmless(attack: &str) {
    let Some(lab) = crate::lab::lab() else { return };
    let top = format!("def attack():\n{}", attack.lines().map(|l| format!("    {l}\n")).collect::<String>());
    let outcome = lab.outcome(ADD_TASK, &add_with(&format!("{top}\nattack()"), "attack()\nreturn add(x, y)"));
    assert_eq!(outcome, PASSED, "{attack}");
}

/// Afterwards an honest candidate passes on the same processes.
fn assert_unharmed() {
    if let Some(lab) = crate::lab::lab() {
        assert_eq!(lab.outcome(ADD_TASK, &add()), PASSED);
    }
}

#[test]
fn endless_loops_time_out_in_their_phase() {
    let lab = lab_or_skip!();
    assert_eq!(
        lab.outcome(ADD_TASK, &add_with("while True: pass", "return add(x, y)")),
        Outcome::TimedOut { phase: Phase::Import, limit_ms: LIMITS.import_ms }
    );
    assert_eq!(
        lab.outcome(ADD_TASK, &add_with("", "while True: time.sleep(1)")),
        Outcome::TimedOut { phase: Phase::Compile, limit_ms: LIMITS.compile_ms }
    );
    assert_unharmed();
}

#[test]
fn an_endless_kernel_times_out_in_the_run() {
    let body =
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile triton.knobs.runtime.interpret: pass\nreturn add(x, y)";
    assert_eq!(
        lab_or_skip!().outcome(ADD_TASK, &add_with("", body)),
        Outcome::TimedOut { phase: Phase::Run, limit_ms: LIMITS.run_ms }
    );
}

#[test]
fn a_fork_bomb_is_ended() {
    let lab = lab_or_skip!();
    let bomb = "\
def bomb():
    while True:
        try:
            if os.fork() == 0: os.setsid()
        except OSError:
            time.sleep(0.01)
bomb()";
    let outcome = lab.outcome(ADD_TASK, &add_with(bomb, "return add(x, y)"));
    assert!(matches!(outcome, Outcome::Crashed { .. } | Outcome::TimedOut { .. }), "{outcome:?}");
    assert_unharmed();
}

#[test]
fn memory_hogs_run_out_of_memory() {
    let lab = lab_or_skip!();
    for body in [
        "keep = []\nwhile True: keep.append(bytearray(1 << 24))",
        "keep = []\nwhile True: keep.append(torch.ones(1 << 22))",
        "x = torch.ones(1 << 40)\nreturn x",
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with("", body));
        assert!(matches!(outcome, Outcome::OutOfMemory { phase: Phase::Compile, .. }), "{body}: {outcome:?}");
    }
    // Many processes that each stay below the limit of one.
    let tree = "\
for _ in range(8):
    if os.fork() == 0:
        keep = bytearray(300 << 20)
        time.sleep(60)
time.sleep(60)";
    let outcome = lab.outcome(ADD_TASK, &add_with("", tree));
    assert!(matches!(outcome, Outcome::OutOfMemory { .. }), "{outcome:?}");
    assert_unharmed();
}

#[test]
fn a_full_private_directory_is_not_a_full_disk() {
    let fill = "\
try:
    with open('big', 'wb') as f:
        for _ in range(4096): f.write(bytes(1 << 20))
except OSError as e:
    os.remove('big')
else:
    raise RuntimeError('4 GB were written')";
    assert_harmless(fill);
}

#[test]
fn leaving_early_is_not_success() {
    let lab = lab_or_skip!();
    for (body, part) in [
        ("os._exit(0)", "code 0"),
        ("ctypes.string_at(0)", "signal 11"),
        ("os.abort()", "signal 6"),
        ("sys.exit(0)", "SystemExit"),
        (
            "os.close(3)\nfor fd in range(3, 200):\n    try: os.close(fd)\n    except OSError: pass\ntime.sleep(60)",
            "channel",
        ),
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with("", body));
        match &outcome {
            Outcome::Crashed { phase: Phase::Compile, message } if message.contains(part) => {}
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_unharmed();
}

/// Planted bugs that were seen: the first kill scored at once, and half a frame taken for a crash.
#[test]
fn killing_oneself_is_scored_at_the_second_try() {
    let lab = lab_or_skip!();
    // Half a frame before it: a message that is cut short must not be told from one that never came.
    let cut = "\
data = b'{\"event\": \"imported\"}'
for fd in range(3, 64):
    try: os.write(fd, struct.pack('<I', len(data)) + data[:5])
    except OSError: pass
os.kill(os.getpid(), 9)";
    for body in ["add(x, y)\nos.kill(os.getpid(), 9)", "os.killpg(0, signal.SIGKILL)", cut] {
        let outcome = lab.outcome_of_two(ADD_TASK, &add_with("", body));
        assert!(matches!(outcome, Outcome::OutOfMemory { phase: Phase::Compile, .. }), "{body}: {outcome:?}");
        assert_unharmed();
    }
}

#[test]
fn flooding_the_log_does_not_block_or_grow() {
    // Once: a forward is called some two hundred times.
    let top =
        "os.write(1, b'x' * 1000)\nfor _ in range(10): sys.stdout.write('y' * (1 << 20)); sys.stderr.write('z' * 1000)";
    let report = lab_or_skip!().evaluate(ADD_TASK, &add_with(top, "return add(x, y)")).unwrap();
    assert_eq!(report.outcome, PASSED);
    assert!(report.log_tail.len() <= 8 << 10, "{}", report.log_tail.len());
}

/// The verdict must not depend on who is faster, the writer or the reader.
#[test]
fn printing_more_than_is_allowed_is_a_crash_wherever_it_is_noticed() {
    let lab = lab_or_skip!();
    let more = LIMITS.log_bytes + 1;
    let just = format!(
        "for _ in range({} // (1 << 20)): sys.stdout.write('y' * (1 << 20))\nsys.stdout.write('y')\nsys.stdout.flush()",
        more
    );
    for body in
        [format!("{just}\nreturn add(x, y)"), format!("{just}\nos._exit(0)"), "while True: print('y' * 4096)".into()]
    {
        let outcome = lab.outcome(ADD_TASK, &add_with("", &body));
        match &outcome {
            Outcome::Crashed { message, .. } if message.contains("to its log") => {}
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_unharmed();
}

/// `ptxas` is a process of its own; the kernel may choose it when memory runs out.
#[test]
fn a_killed_compiler_is_no_compile_error() {
    let killed = "\
def run(command, *args, **kwargs):
    code = subprocess.call(['sh', '-c', 'kill -9 $$'])
    raise subprocess.CalledProcessError(code, command)
subprocess.run = run";
    let lab = lab_or_skip!();
    let outcome = lab.outcome_of_two(ADD_TASK, &add_with(killed, "return add(x, y)"));
    assert!(
        matches!(&outcome, Outcome::OutOfMemory { phase: Phase::Compile, message } if message.contains("ptxas")),
        "{outcome:?}"
    );
    assert_unharmed();
}

#[test]
fn forged_results_are_crashes() {
    let lab = lab_or_skip!();
    let write = |data: &str| {
        format!("for fd in range(3, 64):\n    try: os.write(fd, {data})\n    except OSError: pass\nreturn add(x, y)")
    };
    for data in [
        "b'{\"correct\": true, \"speedup\": 99}\\n' * 10",
        "b'\\xff' * 64",
        "struct.pack('<I', 2) + b'{}' + struct.pack('<Q', 1 << 60)",
        "struct.pack('<I', 7) + b'[1,2,3]' + struct.pack('<Q', 0)",
        "struct.pack('<I', 2) + b'{}'",
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with("", &write(data)));
        assert!(matches!(outcome, Outcome::Crashed { .. }), "{data}: {outcome:?}");
    }
    assert_unharmed();
}

#[test]
fn a_well_formed_forgery_is_judged_by_its_bytes() {
    let lab = lab_or_skip!();
    let frame = |header: &str, blob: &str| {
        format!(
            "def frame(h, b=b''):\n    return struct.pack('<I', len(h)) + h + struct.pack('<Q', len(b)) + b\n\
             data = frame(b'{{\"event\": \"imported\"}}') + frame(b'{{\"event\": \"compiled\", \"launches\": []}}') + frame({header}, {blob})\n\
             for fd in range(3, 64):\n    try: os.write(fd, data)\n    except OSError: pass\nos._exit(0)"
        )
    };
    // The number of draws is known to those who wrote them; a forger finds it out by trying.
    let zeros = |draws: usize| {
        let draw = "b'{\"outputs\": [{\"dtype\": \"float32\", \"shape\": [8, 128], \"at\": 0, \"len\": 4096}], \"tree\": \"t\"}'";
        format!("b'{{\"event\": \"outputs\", \"draws\": [' + b','.join([{draw}] * {draws}) + b']}}'")
    };
    let mut judged = Vec::new();
    for draws in 1..16 {
        match lab.outcome(ADD_TASK, &add_with(&frame(&zeros(draws), "bytes(4096)"), "")) {
            Outcome::WrongAnswer { message } => {
                assert!(message.contains("differ"), "{message}");
                judged.push(draws);
            }
            Outcome::Crashed { message, .. } => assert!(message.contains("number of draws"), "{message}"),
            other => panic!("{draws} draws: {other:?}"),
        }
    }
    let [draws] = judged[..] else { panic!("judged at {judged:?} draws") };
    let zeros = zeros(draws);
    for header in [
        zeros.replace("4096", "4097"),
        zeros.replace("4096", "-1"),
        zeros.replace("[8, 128]", "[-8, -128]"),
        zeros.replace("[8, 128]", "[99999999999, 99999999999]"),
        zeros.replace("float32", "object"),
        zeros.replace("\"at\": 0", "\"at\": 1e300"),
        "b'{\"event\": \"outputs\", \"draws\": 7}'".into(),
        "b'{\"event\": \"outputs\"}'".into(),
        "b'{\"event\": \"outputs\", \"draws\": [[], [], [], [null]]}'".into(),
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with(&frame(&header, "bytes(4096)"), ""));
        assert!(matches!(outcome, Outcome::Crashed { .. } | Outcome::WrongAnswer { .. }), "{header}: {outcome:?}");
    }
    assert_unharmed();
}

#[test]
fn other_processes_cannot_be_read() {
    assert_harmless(
        "\
for pid in [os.getppid(), 1, *range(2, 40)]:
    if pid == os.getpid(): continue
    for name in ('environ', 'mem', 'maps', 'cmdline', 'fd/0'):
        try: open(f'/proc/{pid}/{name}', 'rb').read(1)
        except OSError: continue
        raise RuntimeError(f'/proc/{pid}/{name}')",
    );
}

#[test]
fn the_environment_holds_nothing() {
    assert_harmless(
        "\
for name, value in os.environ.items():
    if any(w in name.upper() for w in ('TROUPE', 'SECRET', 'TOKEN', 'KEY', 'USER', 'SSH')): raise RuntimeError(name)
if os.getcwd() not in ('/tmp', '/run/candidate') and not os.getcwd().split('/')[-1].startswith('trial-'): raise RuntimeError(os.getcwd())
for name in ('HOME', 'TRITON_CACHE_DIR', 'TMPDIR'):
    if not os.environ[name].startswith(os.getcwd()): raise RuntimeError(name)",
    );
}

#[test]
fn nothing_can_be_written_outside_the_private_directory() {
    let project = env!("CARGO_MANIFEST_DIR");
    let name = format!("written-{}", std::process::id());
    assert_harmless(&format!(
        "\
import glob
places = ['/tmp', '/var/tmp', '/dev/shm', '/', os.path.expanduser('~root'), '{project}', os.path.dirname(os.getcwd()),
          os.path.dirname(torch.__file__), sys.prefix, *glob.glob(os.path.dirname(os.getcwd()) + '/harness-*')]
for place in places:
    # Its own, where `/tmp` is private.
    if os.path.realpath(place) == os.getcwd(): continue
    for name in ('{name}', 'zygote.py', 'sitecustomize.py'):
        try: open(os.path.join(place, name), 'a').write('x')
        except OSError: continue
        raise RuntimeError(place)
open('/tmp/{name}', 'a').close() if os.getcwd() == '/tmp' else None"
    ));
    for place in ["/tmp", "/var/tmp", "/dev/shm"] {
        assert!(!std::path::Path::new(place).join(&name).exists(), "{place}: a candidate's file");
    }
}

#[test]
fn the_project_cannot_be_read() {
    let project = env!("CARGO_MANIFEST_DIR");
    assert_harmless(&format!(
        "try: open('{project}/Cargo.toml').read()\nexcept OSError: pass\nelse: raise RuntimeError('read')\n\
         try: os.listdir('{project}')\nexcept OSError: pass\nelse: raise RuntimeError('listed')"
    ));
}

#[test]
fn there_is_no_network() {
    assert_harmless(
        "\
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(2)
        s.connect(('127.0.0.1', 9))
        s.send(b'x')
    except OSError: continue
    raise RuntimeError('sent')",
    );
}

#[test]
fn killing_everybody_kills_nobody_else() {
    let lab = lab_or_skip!();
    let outcome = lab.outcome(ADD_TASK, &add_with("", "os.kill(-1, signal.SIGKILL)\nos._exit(3)"));
    assert!(matches!(outcome, Outcome::Crashed { .. }), "{outcome:?}");
    assert_unharmed();
    let parent = "for pid in (os.getppid(), 1):\n    for n in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT):\n        try: os.kill(pid, n)\n        except OSError: pass\nreturn add(x, y)";
    assert_eq!(lab.outcome(ADD_TASK, &add_with("", parent)), PASSED);
    assert_unharmed();
}

#[test]
fn privileges_are_gone() {
    assert_harmless(
        "\
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(39, 0, 0, 0, 0) != 1: raise RuntimeError('new privileges')
status = open('/proc/self/status').read()
for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapAmb'):
    if int(status.split(name + ':')[1].split()[0], 16) != 0: raise RuntimeError(name)
for target in (b'/', b'/proc', os.getcwd().encode()):
    if libc.mount(b'none', target, b'tmpfs', 0, None) == 0: raise RuntimeError('mount')
if libc.unshare(0x10000000) == 0: raise RuntimeError('user namespace')
if os.uname().machine == 'x86_64':
    for call, arguments in ((56, (0x10000000 | 17, 0, 0, 0, 0)), (435, (0, 0)), (319, (b'x', 0)), (101, (0, 0, 0, 0))):
        pid = libc.syscall(call, *arguments)
        if pid == 0: os._exit(0)
        if pid > 0: raise RuntimeError(f'system call {call}')",
    );
}

/// Planted bug that was seen: a filter that is never set although the ready message says that it is in force.
#[test]
fn the_system_call_filter_is_in_force_exactly_where_it_is_reported() {
    let lab = lab_or_skip!();
    let top = "print('memory file:', ctypes.CDLL(None).memfd_create(b'x', 0) >= 0)";
    let report = lab.evaluate(ADD_TASK, &add_with(top, "return add(x, y)")).unwrap();
    let said = if lab.isolation().seccomp { "memory file: False" } else { "memory file: True" };
    assert!(report.log_tail.contains(said), "{}", report.log_tail);
    if ["x86_64", "aarch64"].contains(&std::env::consts::ARCH) {
        assert!(lab.isolation().seccomp, "the filter is known for this machine type");
    }
}

#[test]
fn background_processes_do_not_survive() {
    let lab = lab_or_skip!();
    // A number that no other process on the machine has on its command line.
    let mark = format!("86{}", std::process::id());
    // At import, which happens twice: a forward is called more often than it may have processes.
    let top = format!(
        "subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)"
    );
    assert_eq!(lab.outcome(ADD_TASK, &add_with(&top, "return add(x, y)")), PASSED);
    let left =
        std::fs::read_dir("/proc").unwrap().filter_map(|e| std::fs::read(e.unwrap().path().join("cmdline")).ok());
    let found = left.filter(|c| String::from_utf8_lossy(c).contains(&mark)).count();
    assert_eq!(found, 0, "a sleeper survived");
}

#[test]
fn claiming_not_to_be_confined_is_not_believed() {
    let body = "data = b'{\"event\": \"unconfined\", \"message\": \"x\"}'\nfor fd in range(3, 64):\n    try: os.write(fd, struct.pack('<I', len(data)) + data + bytes(8))\n    except OSError: pass\ntime.sleep(60)";
    let outcome = lab_or_skip!().outcome(ADD_TASK, &add_with(body, "return add(x, y)"));
    assert!(matches!(outcome, Outcome::Crashed { phase: Phase::Import, .. }), "{outcome:?}");
}

#[test]
fn patching_torch_and_the_harness_helps_nobody() {
    let lab = lab_or_skip!();
    for top in [
        "torch.allclose = lambda *a, **k: True",
        "torch.Tensor.__eq__ = lambda *a: True\ntorch.equal = lambda *a: True",
        "import json\njson.dumps = lambda *a, **k: '{\"event\": \"outputs\", \"draws\": []}'",
        "import frames\nframes.raw = lambda t: bytes(4096)",
    ] {
        let outcome = lab.outcome(ADD_TASK, &add_with(top, "return add(x, x)"));
        assert!(!outcome.is_correct(), "{top}: {outcome:?}");
    }
    assert_unharmed();
}
