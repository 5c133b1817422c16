//! Tests of the filter language against a real SQLite table, and of its error texts.

use super::*;
use crate::inspect::table::{Table, select_list};

/// id, task, verdict, step, policy_oldest, reward_code, ruling, report
type Line =
    (i64, &'static str, Option<&'static str>, Option<i64>, i64, Option<f64>, &'static str, Option<&'static str>);

const REJECTED: &str = r#"{"Reject":{"candidate":null,"findings":[{"code":"K023","message":"Counts its \"calls\""}],"outcome":{"verdict":"rejected","reason":"K023: counts"}}}"#;
const NO_LAUNCH: &str = r#"{"outcome":{"verdict":"rejected","reason":"no launch"},"findings":[{"code":"K101","message":"forward 2 launched NOTHING"}]}"#;

const ROWS: &[Line] = &[
    (
        1,
        "l1_softmax_rows",
        Some("passed"),
        Some(3),
        2,
        Some(1.0),
        r#"{"findings":[]}"#,
        Some(r#"{"outcome":{"verdict":"passed","speedup":1.5},"x":1}"#),
    ),
    (2, "l1_softmax_rows", Some("wrong_answer"), Some(3), 1, Some(0.0), r#"{"findings":[{"code":"K007"}]}"#, None),
    (3, "l2_gelu", Some("passed"), None, 4, Some(1.0), r#"{"source":"x = \"code\":\"K007\""}"#, None),
    (4, "l2_gelu", None, None, 5, None, "{}", None),
    (5, "l3", Some("rejected"), None, 5, Some(0.0), REJECTED, None),
    (6, "l3", Some("rejected"), None, 5, Some(0.0), r#"{"Admit":{"findings":[]}}"#, Some(NO_LAUNCH)),
    (7, "l3", Some("implausible"), None, 5, Some(0.0), "{}", Some("{}")),
    (
        8,
        "l3",
        Some("rejected"),
        None,
        5,
        Some(0.0),
        r#"{"Reject":{"outcome":{"verdict":"rejected","reason":"K999: new"}}}"#,
        None,
    ),
];

fn ids(filter: &str) -> Vec<i64> {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch(
        "CREATE TABLE rollouts (id, phase, grp, task, step, state, attempt, policy_oldest, policy_newest, finish,
         n_tokens, plan_tokens, verdict, reward_plan, reward_code, adv_plan, adv_code, ending, ruling, report, answer,
         sampled_at, ended_at)",
    )
    .unwrap();
    for (id, task, verdict, step, policy, code, ruling, report) in ROWS {
        db.execute(
            "INSERT INTO rollouts (id, task, verdict, step, policy_oldest, reward_code, ruling, report)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            rusqlite::params![id, task, verdict, step, policy, code, ruling, report],
        )
        .unwrap();
    }
    let levels = [("l1_softmax_rows".to_string(), 1), ("l2_gelu".to_string(), 2)];
    let filter = Filter::parse(filter).unwrap_or_else(|e| panic!("{e}"));
    let (sql, values) = filter.sql(&levels);
    let mut statement = db.prepare(&format!("SELECT id FROM rollouts WHERE {sql} ORDER BY id")).unwrap();
    let rows = statement.query_map(rusqlite::params_from_iter(values), |r| r.get(0)).unwrap();
    let found: Vec<i64> = rows.map(Result::unwrap).collect();
    agrees(&db, &filter, &levels, &found);
    found
}

/// The columns in memory say the same as the store: exactly so, or as bounds where long texts are asked for.
fn agrees(db: &rusqlite::Connection, filter: &Filter, levels: &[(String, u8)], found: &[i64]) {
    let mut table = Table::default();
    let mut statement = db.prepare(&format!("SELECT {} FROM rollouts ORDER BY id", select_list())).unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        table.take(row).unwrap();
    }
    let known = filter.known(&table, levels, &|_| None);
    let of = |holds: &[bool]| -> Vec<i64> {
        (0..table.len()).filter(|row| holds[*row]).map(|row| table.id(row) as i64).collect()
    };
    let (can, must) = (of(&known.can), of(&known.must));
    if filter.is_quick() {
        assert_eq!((can.as_slice(), must.as_slice()), (found, found));
    }
    assert!(must.iter().all(|id| found.contains(id)) && found.iter().all(|id| can.contains(id)), "{known:?}");
}

fn error(filter: &str) -> String {
    Filter::parse(filter).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn comparisons_select_what_they_say() {
    assert_eq!(ids("verdict = passed"), [1, 3]);
    assert_eq!(ids("verdict == \"passed\""), [1, 3]);
    assert_eq!(ids("verdict != passed"), [2, 5, 6, 7, 8]);
    assert_eq!(ids("id >= 2 and id < 4"), [2, 3]);
    assert_eq!(ids("reward.code = 1"), [1, 3]);
    assert_eq!(ids("task ~ SOFT"), [1, 2]);
    assert_eq!(ids("task = 'l2_gelu'"), [3, 4]);
    assert_eq!(ids("staleness = 0"), [1]);
    assert_eq!(ids("staleness > 0"), [2]);
    assert_eq!(ids("level = 2"), [3, 4]);
    assert_eq!(ids("level < 2"), [1, 2]);
    assert_eq!(ids("level != 9"), [1, 2, 3, 4]);
}

#[test]
fn and_binds_tighter_than_or_and_parentheses_win() {
    assert_eq!(ids("id = 1 or id = 2 and id = 3"), [1]);
    assert_eq!(ids("(id = 1 or id = 2) and id = 2"), [2]);
    assert_eq!(ids("not id = 1 and not (id = 2 or id = 3)"), [4, 5, 6, 7, 8]);
    assert_eq!(ids("NOT NOT id=1 OR id=4"), [1, 4]);
}

#[test]
fn what_is_not_known_is_false_and_none_asks_for_it() {
    assert_eq!(ids("step > 0"), [1, 2]);
    assert_eq!(ids("not step > 0"), [3, 4, 5, 6, 7, 8]);
    assert_eq!(ids("verdict = none"), [4]);
    assert_eq!(ids("verdict != none and step = none"), [3, 5, 6, 7, 8]);
}

#[test]
fn a_finding_is_found_in_the_ruling_but_not_in_a_candidate_that_spells_one() {
    assert_eq!(ids("finding = k007"), [2]);
    assert_eq!(ids("finding != K007"), [1, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_finding_is_also_found_by_a_part_of_its_message_wherever_it_was_made() {
    assert_eq!(ids("finding ~ 'its \"CALLS'"), [5]);
    assert_eq!(ids("finding ~ nothing"), [6]);
    assert_eq!(ids("finding ~ 'k101: forward'"), [6]);
    assert_eq!(ids("id < 9 and not (finding ~ nothing or id < 4)"), [4, 5, 7, 8]);
    assert!(error("finding < K007").contains("~ for a part of its message"));
}

#[test]
fn hacks_are_found_by_their_class_and_speedups_by_their_size() {
    assert_eq!(HACKS, CLASSES.iter().map(|class| class.name).collect::<Vec<_>>());
    assert_eq!(ids("hack = conditional"), [5]);
    assert_eq!(ids("hack = decoy"), [6]);
    assert_eq!(ids("hack = timing"), [7]);
    assert_eq!(ids("hack = unclear"), [8]);
    assert_eq!(ids("hack != none and hack != unclear"), [5, 6, 7]);
    assert_eq!(ids("hack != timing"), [5, 6, 8]);
    assert_eq!(ids("hack = none"), [1, 2, 3, 4]);
    assert_eq!(ids("speedup > 1.2"), [1]);
    assert!(error("hack = delegaton").contains("did you mean `delegation`"));
}

#[test]
fn what_memory_cannot_decide_is_asked_of_few_rows() {
    for (filter, expected) in [
        ("id <= 2 and finding = K007", &[2][..]),
        ("not (finding = K007 or id >= 4)", &[1, 3]),
        ("id < 5 and not (not id >= 2 and finding != K007)", &[2, 3, 4]),
        ("id < 5 and (id = 1 or not finding = K007)", &[1, 3, 4]),
        ("id < 5 and not (finding = K007 and id < 2)", &[1, 2, 3, 4]),
    ] {
        assert_eq!(ids(filter), expected, "{filter}");
    }
}

#[test]
fn values_are_bound_never_pasted() {
    let hostile = "task = \"x'; DROP TABLE rollouts; --\" or id = 1";
    assert_eq!(ids(hostile), [1]);
    let (sql, values) = Filter::parse(hostile).unwrap().sql(&[]);
    assert!(!sql.contains("DROP") && values.len() == 2, "{sql}");
}

#[test]
fn errors_mark_the_place_and_say_what_was_expected() {
    let e = error("verdict = passd");
    assert!(e.contains("character 11") && e.contains("`passd`") && e.contains("did you mean `passed`"), "{e}");
    let e = error("verdit = passed");
    assert!(e.contains("`verdit`") && e.contains("did you mean `verdict`") && e.contains("reward.code"), "{e}");
    assert!(error("step > abc").contains("a number, or `none`"));
    assert!(error("step ~ 3").contains("for a number"));
    assert!(error("verdict < passed").contains("= or != for this field"));
    assert!(error("step < none").contains("= or != before `none`"));
    assert!(error("(id = 1").contains("`)`, `and` or `or`"));
    assert!(error("id = 1 id = 2").contains("the end of the filter"));
    assert!(error("id =").contains("a value"));
    assert!(error("id").contains("=, !=, <"));
    assert!(error("").contains("a field:"));
    assert!(error("task = 'x").contains("a closing quote"));
    assert!(error("id = 1 ; drop").contains("`;`"));
    let caret = error("äö = 1");
    assert!(caret.contains("\n            ^"), "{caret}");
    assert!(error(&format!("{}id = 1", "not ".repeat(500))).contains("at most 64"));
    assert!(error(&"x".repeat(5000)).contains("too long"));
}

#[test]
fn every_field_is_a_column_and_in_the_help() {
    let help = {
        use clap::CommandFactory as _;
        let mut command = crate::cli::Cli::command();
        let rollouts = command.find_subcommand_mut("rollouts").unwrap();
        rollouts.render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for field in FIELDS {
        let value = match field.kind {
            Kind::Number | Kind::Level => "1",
            Kind::Word(all) => all[0],
            Kind::Text | Kind::Finding => "x",
        };
        ids(&format!("{} = {value}", field.name));
        assert!(help.contains(field.name), "{} is not in the help", field.name);
    }
}
