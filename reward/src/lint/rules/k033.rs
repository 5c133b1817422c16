//! K033: inline assembly does arithmetic on registers, nothing else.

use rollout::outcome::Finding;

use super::{Rule, reject};
use crate::lint::Known;

/// K033
pub const RULE: Rule = Rule {
    code: "K033",
    title: "inline assembly that is more than arithmetic",
    page: include_str!("../../../../docs/rules/K033.md"),
    check,
};

/// Instructions that stop, wait, jump, touch memory or reach other kernels; their first word.
const DENIED: &[&str] = &[
    "applypriority",
    "atom",
    "bar",
    "barrier",
    "bra",
    "brkpt",
    "brx",
    "call",
    "cp",
    "createpolicy",
    "discard",
    "exit",
    "fence",
    "griddepcontrol",
    "isspacep",
    "ld",
    "ldu",
    "mapa",
    "mbarrier",
    "membar",
    "multimem",
    "nanosleep",
    "pmevent",
    "prefetch",
    "prefetchu",
    "red",
    "ret",
    "setmaxnreg",
    "st",
    "suld",
    "sured",
    "sust",
    "trap",
];

/// Registers that tell when and where a program runs.
const CLOCKS: &[&str] =
    &["%clock", "%globaltimer", "%pm", "%gridid", "%smid", "%nsmid", "%warpid", "%nwarpid", "%envreg"];

/// The first instruction or register of a text that is denied.
fn denied(assembly: &str) -> Option<&str> {
    if let Some(clock) = CLOCKS.iter().find(|c| assembly.contains(**c)) {
        return Some(clock);
    }
    assembly
        .split([';', '\n', '{', '}'])
        .filter_map(|instruction| {
            // A guard (`@p`, `@!p`) comes before the instruction.
            let mut words = instruction.split_whitespace().skip_while(|word| word.starts_with('@'));
            words.next().and_then(|word| word.split('.').next())
        })
        .find(|name| DENIED.contains(name))
}

fn check(known: &mut Known<'_>, findings: &mut Vec<Finding>) {
    for (text, line) in &known.whole.assembly {
        match text {
            Some(text) => {
                if let Some(what) = denied(text) {
                    reject(findings, RULE.code, *line, format!("{what} in inline assembly is not arithmetic"));
                }
            }
            None => reject(findings, RULE.code, *line, "inline assembly that is not a constant"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::denied;

    #[test]
    fn arithmetic_is_free_and_the_rest_is_not() {
        for honest in [
            "tanh.approx.f32 $0, $1;",
            "{\n .reg .b16 r<2>;\n mov.b32 {r0, r1}, $1;\n cvt.f32.f16 $0, r0;\n}",
            "and.b32 $0, $2, 0xF; prmt.b32 $1, $2, $3, 0x40;",
            "@p add.f32 $0, $1, $2;",
            "redux.sync.add.s32 $0, $1, 0xffffffff;",
        ] {
            assert_eq!(denied(honest), None, "{honest}");
        }
        for (hack, what) in [
            ("trap;", "trap"),
            ("mov.u32 $0, 1; @p exit;", "exit"),
            ("nanosleep.u32 1000;", "nanosleep"),
            ("{ st.global.f32 [$1], 0f00000000; mov.b32 $0, 0; }", "st"),
            ("mov.u64 $0, %globaltimer;", "%globaltimer"),
            ("griddepcontrol.launch_dependents;", "griddepcontrol"),
        ] {
            assert_eq!(denied(hack), Some(what), "{hack}");
        }
    }
}
