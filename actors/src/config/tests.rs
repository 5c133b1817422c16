//! Tests of the run file: the three lists agree, layers win in order, every kind of slip is one clear error.

use std::collections::BTreeSet;

use super::*;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn error(toml: &str) -> UserError {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "my.toml", toml);
    Config::load(&[path], &[]).unwrap_err()
}

fn set_error(set: &str) -> UserError {
    Config::load(&[], &[set.to_string()]).unwrap_err()
}

/// All of where, found, expected and hint hold the given texts.
fn assert_parts(e: &UserError, what: &str, place: &str, found: &str, expected: &str, hint: &str) {
    assert!(e.what.contains(what), "what: {e}");
    for (part, text) in [(&e.place, place), (&e.found, found), (&e.expected, expected), (&e.hint, hint)] {
        assert!(part.as_deref().unwrap_or("").contains(text), "`{text}` is missing in:\n{e}");
    }
}

#[test]
fn truncation_is_told_by_key() {
    let note = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
        Config::load(&[], &sets).unwrap().sampling.truncation_note()
    };
    assert_eq!(note(&[]), None);
    assert!(note(&["sampling.top_p=0.9"]).unwrap().starts_with("sampling.top_p truncates: importance ratios"));
    let both = note(&["sampling.top_k=5", "sampling.min_p=0.1"]).unwrap();
    assert!(both.starts_with("sampling.top_k, sampling.min_p truncate: "), "{both}");
}

#[test]
fn the_key_list_the_type_and_cluster_toml_are_equal() {
    let listed: BTreeSet<String> = KEYS.iter().map(|k| k.path.to_string()).collect();
    assert_eq!(listed.len(), KEYS.len(), "a key is listed twice");
    let flatten = |text: &str| -> BTreeSet<String> {
        let table: toml::Table = text.parse().unwrap();
        table.iter().flat_map(|(s, keys)| keys.as_table().unwrap().keys().map(move |k| format!("{s}.{k}"))).collect()
    };
    assert_eq!(flatten(DEFAULT_TOML), listed, "cluster.toml against KEYS");
    assert_eq!(flatten(&Config::builtin().unwrap().to_toml()), listed, "Config against KEYS");
}

#[test]
fn cluster_toml_deserialises_directly_and_equals_the_built_in_default() {
    let direct: Config = toml::from_str(DEFAULT_TOML).unwrap();
    assert_eq!(direct, Config::builtin().unwrap());
}

#[test]
fn every_key_in_cluster_toml_has_its_own_comment() {
    // Above it or behind it.
    let mut above = false;
    let mut bare = Vec::new();
    for line in DEFAULT_TOML.lines() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        if is_key && !above && !line.contains(" # ") {
            bare.push(line);
        }
        above = line.starts_with('#');
    }
    assert!(bare.is_empty(), "keys without a comment: {bare:#?}");
}

#[test]
fn the_resolved_configuration_reads_back_even_with_idle_keys() {
    let mut config = Config::builtin().unwrap();
    config.run.seed = 77;
    config.learner.lr = 0.125;
    let back = Config::from_resolved(&config.to_toml(), Path::new("run/config.toml")).unwrap();
    assert_eq!(back, config);
}

#[test]
fn later_layers_win() {
    let dir = tempfile::tempdir().unwrap();
    let one = file(&dir, "1.toml", "[run]\nseed = 2\nsteps = 5\n[learner]\nlr = 1\n");
    let two = file(&dir, "2.toml", "run.seed = 3\n");
    let config = Config::load(&[one.clone(), two.clone()], &[]).unwrap();
    assert_eq!((config.run.seed, config.run.steps, config.learner.lr), (3, 5, 1.0));
    let config = Config::load(&[two, one.clone()], &[]).unwrap();
    assert_eq!(config.run.seed, 2);
    let config = Config::load(&[one], &["run.seed = 9".into(), "staleness_max=0".into()]).unwrap();
    assert_eq!((config.run.seed, config.rollout.staleness_max), (9, 0));
}

#[test]
fn set_takes_texts_with_and_without_quotes() {
    let config =
        Config::load(&[], &["tasks.dir=/a b/c".into(), "run.dir=\"x\"".into(), "mode=uniform".into()]).unwrap();
    assert_eq!(config.tasks.dir, PathBuf::from("/a b/c"));
    assert_eq!(config.run.dir, PathBuf::from("x"));
    assert_eq!(config.reward.mode, RewardMode::Uniform);
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_key() {
    let e = error("[run]\nseed = 1\n\n[rollout]\ngroup_sise = 4\n");
    assert_parts(
        &e,
        "rollout.group_sise",
        "my.toml, line 5",
        "group_sise",
        "`group_size`",
        "did you mean `group_size`",
    );
    let e = error("[rollouts]\ngroup_size = 4\n");
    assert_parts(&e, "section `rollouts`", "my.toml, line 1", "rollouts", "`rollout`", "did you mean `rollout`");
    let e = error("[learner]\nstaleness_max = 0\n");
    assert_parts(&e, "learner.staleness_max", "line 2", "staleness_max", "`lr`", "a key of [rollout]");
    assert_parts(&error("seed = 3\n"), "section `seed`", "line 1", "seed", "`run`", "");
    let e = set_error("rollout.credit=3");
    assert_parts(&e, "rollout.credit", "--set rollout.credit=3", "credit", "`credits`", "did you mean `credits`");
    assert_parts(&set_error("stalenes_max=3"), "stalenes_max", "--set", "", "", "did you mean `staleness_max`");
    assert_parts(&set_error("lr=3"), "several sections", "--set lr=3", "lr", "`sft.lr`, `learner.lr`", "section");
    assert_parts(&set_error("lr"), "needs a key and a value", "--set lr", "lr", "section.key=value", "");
}

#[test]
fn a_wrong_type_or_range_names_what_was_expected() {
    let e = error("[rollout]\n# comment\ngroup_size = \"8\"\n");
    assert_parts(&e, "rollout.group_size", "my.toml, line 3", "\"8\" (a text)", "whole number", "without quotes");
    let e = error("[rollout]\ngroup_size = 1\n");
    assert_parts(&e, "rollout.group_size", "line 2", "1 (a whole number)", "from 2", "");
    let e = error("[rollout]\ngroup_size = 2.5\n");
    assert_parts(&e, "rollout.group_size", "line 2", "2.5 (a number with a fraction)", "a whole number", "");
    let e = error("[sampling]\ntemperature = 0\n");
    assert_parts(&e, "sampling.temperature", "line 2", "0", "above 0", "");
    let e = error("[reward]\nmode = \"hdr\"\n");
    assert_parts(&e, "reward.mode", "line 2", "\"hdr\"", "\"hrd\", \"uniform\"", "did you mean \"hrd\"");
    assert_parts(&error("[run]\ndir = \"\"\n"), "run.dir", "line 2", "\"\"", "not empty", "");
    assert_parts(&error("[run]\nseed = -1\n"), "run.seed", "line 2", "-1", "at least 0", "");
    assert_parts(&error("[run]\nseed = 99999999999999999999\n"), "run.seed", "line 2", "999", "whole number", "");
    assert_parts(&error("[learner]\nlr = nan\n"), "learner.lr", "line 2", "nan", "above 0", "");
    assert_parts(&error("[run]\nseed = [1]\n"), "run.seed", "line 2", "(a list)", "whole number", "");
    assert_parts(&set_error("run.seed=abc"), "run.seed", "--set run.seed=abc", "abc", "whole number", "");
    assert_parts(&set_error("run.seed="), "run.seed", "--set run.seed=", "nothing", "whole number", "");
    assert_parts(&set_error("eval.enabled=yes"), "eval.enabled", "--set", "yes", "true or false", "");
}

#[test]
fn a_bucket_is_no_shared_folder() {
    let e = error("[cluster]\nlisten = \"127.0.0.1:7440\"\nobject_store = \"s3://bucket/weights\"\n");
    assert_parts(&e, "is a URL", "my.toml, line 3", "s3://bucket/weights", "a folder", "mount");
    let kept = error("[cluster]\nlisten = \"127.0.0.1:7440\"\nsuspect_ms = 9000\n");
    assert_parts(&kept, "in no order", "line 3", "suspect_ms = 9000", "suspect_ms < dead_ms", "");
}

#[test]
fn broken_toml_and_a_missing_file_are_clear() {
    let e = error("[run]\nseed = 1\ndir = runs\n");
    assert_parts(&e, "not valid TOML", "my.toml, line 3", "dir = runs", "", "quotes");
    let e = error("run = 3\n");
    assert_parts(&e, "`run` is a section", "line 1", "run = ..", "[run]", "");
    let e = Config::load(&[PathBuf::from("/nowhere/my.toml")], &[]).unwrap_err();
    assert_parts(&e, "cannot read the run file", "/nowhere/my.toml", "No such file", "", "check the path");
}

#[test]
fn a_key_without_effect_is_an_error_only_when_the_user_set_it() {
    let cases = [
        ("[reward]\nuniform_beta = 0.5\n", "reward.uniform_beta", "reward.mode = \"uniform\""),
        ("[reward]\nstd_estimator = \"population\"\n", "reward.std_estimator", "adv_norm = \"std\""),
        ("[reward]\nlen_norm_constant = 9\n", "reward.len_norm_constant", "len_norm = \"constant\""),
        ("[model]\ndir = \"m\"\nhidden = 64\n", "model.hidden", "model.dir = \"\""),
        ("[sft]\nenabled = false\nlr = 0.1\n", "sft.lr", "sft.enabled = true"),
        ("[eval]\nenabled = false\nsamples = 2\n", "eval.samples", "eval.enabled = true"),
        ("[learner]\ntruncate_at = 3\n", "learner.truncate_at", "learner.correction = \"truncated\""),
        ("[learner]\ncorrection = \"none\"\nicepop_low = 0.4\n", "learner.icepop_low", "correction = \"icepop\""),
        ("[learner]\nicepop_high = 4\n", "learner.icepop_high", "correction = \"icepop\""),
        ("[learner]\nreject_low = 0.9\n", "learner.reject_low", "learner.reject_answers = true"),
        ("[learner]\nreject_high = 1.1\n", "learner.reject_high", "learner.reject_answers = true"),
        ("[learner]\nreject_veto = 0\n", "learner.reject_veto", "learner.reject_answers = true"),
        (
            "[learner]\npolicy_loss = \"decoupled\"\nepochs = 1\nclip_high = 0.3\n",
            "learner.clip_high",
            "learner.epochs > 1",
        ),
        ("[reward]\nzero_advantages = true\nadv_norm = \"std\"\n", "reward.adv_norm", "zero_advantages = false"),
        ("[reward]\nzero_advantages = true\nbaseline = \"leave_one_out\"\n", "reward.baseline", "zero_advantages"),
    ];
    for (text, key, condition) in cases {
        assert_parts(&error(text), key, "my.toml, line", key, condition, "remove");
    }
    // The same keys are fine at their default, and where they count.
    let fine = ["reward.mode=uniform".to_string(), "reward.uniform_beta=0.5".to_string(), "model.dir=m".to_string()];
    assert!(Config::load(&[], &fine).is_ok());
}

#[test]
fn a_whole_copy_of_cluster_toml_is_a_valid_file_until_an_idle_key_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = file(&dir, "copy.toml", DEFAULT_TOML);
    assert_eq!(Config::load(std::slice::from_ref(&copy), &[]).unwrap(), Config::builtin().unwrap());
    let changed = file(&dir, "changed.toml", &DEFAULT_TOML.replace("uniform_beta = 0.3", "uniform_beta = 0.4"));
    let e = Config::load(&[changed], &[]).unwrap_err();
    assert_parts(&e, "reward.uniform_beta", "changed.toml, line", "uniform_beta", "mode", "remove");
    // Stating the default alone, or on the command line, is still asking for it.
    assert!(error("[reward]\nuniform_beta = 0.3\n").what.contains("no effect"));
    let e = Config::load(&[copy], &["uniform_beta=0.3".into()]).unwrap_err();
    assert!(e.what.contains("no effect"));
}

#[test]
fn keys_that_do_not_fit_together_are_errors() {
    assert_parts(&set_error("model.heads=5"), "heads", "--set model.heads=5", "model.hidden = 192", "even", "160");
    assert_parts(&set_error("kv_heads=4"), "key-value heads", "--set kv_heads=4", "kv_heads = 4", "multiple", "1");
    assert_parts(&set_error("credits=4"), "no step", "--set credits=4", "credits = 4", "group_size", "credits = 192");
    // Planted: the rule compares credits with group_size alone (as it was). Seen: both are accepted.
    let set = "rollout.groups_per_step=40";
    assert_parts(&set_error(set), "no step", set, "groups_per_step = 40", "at least group_size x", "credits = 640");
    assert_parts(&set_error("credits=24"), "no step", "--set credits=24", "credits = 24", "= 96", "credits = 192");
    let set = "sft.enabled=false";
    assert_parts(&set_error(set), "without a warm start", set, "sft.enabled = false", "model.dir", "Hugging Face");
    if !cfg!(feature = "cuda") {
        let e = set_error("device=cuda");
        assert_parts(&e, "without CUDA", "--set device=cuda", "\"cuda\"", "\"cpu\"", "--features cuda");
    }
}

/// Planted: no look at `policy_loss`. Seen: a truncated weight is accepted with `ppo`, and the learner faults at its first step.
#[test]
fn a_correction_fits_its_policy_loss() {
    let load = |sets: &[&str]| Config::load(&[], &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    for policy_loss in ["ppo", "gspo", "gspo_token"] {
        let e = load(&["learner.correction=truncated", &format!("policy_loss={policy_loss}")]).unwrap_err();
        let found = format!("learner.policy_loss = \"{policy_loss}\"");
        assert_parts(&e, "truncated", "--set learner.correction=truncated", &found, "\"decoupled\"", "\"icepop\"");
        let fine = ["learner.correction=icepop", &format!("policy_loss={policy_loss}"), "reject_answers=true"];
        assert!(load(&fine).is_ok());
    }
    let sets = ["policy_loss=decoupled", "learner.correction=truncated", "truncate_at=1.5", "reject_answers=true"];
    let config = load(&sets).unwrap();
    let correction = crate::session::correction(&config.learner);
    assert_eq!(correction.check(), Ok(()));
    assert_eq!((correction.policy_loss, correction.mismatch), (PolicyLoss::Decoupled, Mismatch::Truncated));
    assert_eq!((correction.truncate_at, correction.reject), (1.5, Some(Default::default())));
    // A range without 1 would drop what all policies agree on.
    assert_parts(&set_error("icepop_low=1.5"), "learner.icepop_low", "--set", "1.5", "at most 1", "");
    assert_parts(&set_error("truncate_at=0.5"), "learner.truncate_at", "--set", "0.5", "at least 1", "");
    assert_parts(&set_error("reject_high=0.5"), "learner.reject_high", "--set", "0.5", "at least 1", "");
    assert_parts(&set_error("reject_veto=1"), "learner.reject_veto", "--set", "1", "below 1", "");
    let e = set_error("policy_loss=grpo");
    assert_parts(&e, "learner.policy_loss", "--set policy_loss=grpo", "grpo", "\"gspo\"", "did you mean \"gspo\"");
}

/// Planted: `truncate_at = 3.0` in `Correction::default`. Seen: left and right differ.
#[test]
fn the_default_corrects_nothing_and_is_the_models_own() {
    let config = Config::builtin().unwrap();
    let correction = crate::session::correction(&config.learner);
    assert_eq!(correction, model::correction::Correction::default());
    assert!(!correction.needs_proximal() && !correction.by_answer());
}

#[test]
fn a_list_of_words_is_read_and_checked() {
    let parts = |set: &str| Config::load(&[], &[set.to_string()]).unwrap().executor.require_isolation;
    assert_eq!(parts("executor.require_isolation=[\"landlock\", \"pid\"]"), ["landlock", "pid"]);
    assert_eq!(parts("require_isolation=[]"), [""; 0]);
    let e = error("[executor]\nrequire_isolation = [\"moat\"]\n");
    assert_parts(&e, "executor.require_isolation", "my.toml, line 2", "moat", "\"landlock\", \"seccomp\"", "");
    let set = "require_isolation=[\"pid\", \"pid\"]";
    assert_parts(&set_error(set), "executor.require_isolation", set, "pid", "each once", "");
    assert_parts(&set_error("require_isolation=pid"), "executor.require_isolation", "--set", "pid", "list", "");
}

/// A slow candidate must end in its own limits. Planted: no such rule (as it was). Seen: `run_timeout_ms = 330000` is
/// accepted.
#[test]
fn the_deadline_of_an_evaluation_is_longer_than_the_limits_inside_it() {
    let set = "executor.run_timeout_ms=330000";
    assert_parts(&set_error(set), "its own limits", set, "run_timeout_ms = 330000", "at least 550", "= 550");
    let set = "executor.workers_max=1";
    assert_parts(
        &set_error(set),
        "fewer executors at most",
        set,
        "workers_max = 1",
        "at least executor.workers",
        "= 0",
    );
    // A GPU's steps count too.
    assert!(Config::load(&[], &["gpu.devices=all".into()]).is_ok());
    let sets = ["gpu.devices=all".to_string(), "gpu.call_timeout_ms=9000".to_string()];
    let error = Config::load(&[], &sets).unwrap_err().to_string();
    assert!(error.contains("before its own limits") && error.contains("[gpu]"), "{error}");
    let set = "rollout.execute_deadline_s=279";
    assert_parts(&set_error(set), "its own limits", set, "execute_deadline_s = 279", "at least 280", "= 280");
    assert!(Config::load(&[], &["run_timeout_ms=330000".into(), "execute_deadline_s=550".into()]).is_ok());
}

/// Planted: one step more in `machine_config`. Seen: left and right differ.
#[test]
fn the_machines_default_is_what_cluster_toml_leads_to() {
    let config = Config::builtin().unwrap();
    assert_eq!(crate::session::machine_config(&config), rollout::machine::MachineConfig::default());
}

#[test]
fn paths_become_absolute_but_empty_ones_stay_empty() {
    let config = Config::builtin().unwrap().with_absolute_paths(Path::new("/here"));
    assert_eq!(config.run.dir, PathBuf::from("/here/runs"));
    assert_eq!(config.model.folder(), None);
}

/// Planted: no look at `timeout_s`. Seen: a deadline of 30 s is accepted.
#[test]
fn a_judge_that_is_on_needs_an_address_a_model_and_time() {
    let on = |sets: &[&str]| {
        let sets =
            ["judge.enabled=true", "judge.model=m"].iter().chain(sets).map(|s| s.to_string()).collect::<Vec<_>>();
        Config::load(&[], &sets)
    };
    assert!(on(&[]).is_ok() && !Config::builtin().unwrap().judge.enabled);
    assert_parts(
        &error("[judge]\nenabled = true\n"),
        "no model",
        "my.toml, line 2",
        "judge.model = \"\"",
        "as the endpoint",
        "/models",
    );
    let e = on(&["judge.base_url=h:8000"]).unwrap_err();
    assert_parts(&e, "no address", "--set judge.base_url=h:8000", "h:8000", "http://", "before `/chat/completions`");
    let e = on(&["judge.base_url=http://u:sesame@h/v1"]).unwrap_err();
    assert!(e.found.as_deref().is_some_and(|f| f.contains("a password") && !f.contains("sesame")), "{e}");
    let e = on(&["judge.deadline_s=30"]).unwrap_err();
    assert_parts(&e, "outlive", "--set judge.deadline_s=30", "timeout_s = 60", "at least", "= 180");
    let e = on(&["judge.max_tokens=-1"]).unwrap_err();
    assert_parts(&e, "judge.max_tokens", "--set judge.max_tokens=-1", "-1", "at least 0", "");
    let e = set_error("judge.model=m");
    assert_parts(&e, "judge.model", "--set judge.model=m", "judge.model", "judge.enabled = true", "remove");
    // The stage's lease covers the question.
    let lease = |c: &Config| crate::session::machine_config(c).execute_deadline_ms;
    assert_eq!(lease(&on(&[]).unwrap()), lease(&Config::builtin().unwrap()) + 180_000);
}

#[test]
fn a_generation_server_needs_an_address_a_model_time_and_the_weights() {
    let on = |sets: &[&str]| {
        let all = ["generator.kind=openai", "generator.model=m"].iter().chain(sets);
        Config::load(&[], &all.map(|s| s.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(on(&[]).unwrap().generator.kind, GeneratorKind::Openai);
    let e = set_error("generator.kind=openai");
    assert_parts(&e, "no model", "--set generator.kind=openai", "generator.model = \"\"", "as the server", "/models");
    let e = on(&["generator.base_url=http://h:8000"]).unwrap_err();
    assert_parts(&e, "no address", "--set generator.base_url", "does not end with /v1", "/v1", "beside");
    let e = on(&["generator.base_url=http://u:sesame@h/v1"]).unwrap_err();
    assert!(e.found.as_deref().is_some_and(|f| f.contains("a password") && !f.contains("sesame")), "{e}");
    let e = on(&["generator.timeout_s=500"]).unwrap_err();
    assert_parts(&e, "outlive", "--set generator.timeout_s=500", "sample_deadline_s = 300", "at least", "");
    let e = on(&["generator.reload=none"]).unwrap_err();
    assert_parts(&e, "other weights", "--set generator.reload=none", "run.steps = 240", "run.steps = 0", "\"disk\"");
    let evaluation = ["generator.reload=none", "run.steps=0", "sft.enabled=false", "model.dir=m"];
    assert!(on(&evaluation).is_ok());
    // Keys without effect.
    assert_parts(&set_error("generator.reload=disk"), "generator.reload", "--set", "", "generator.kind", "remove");
    let e = on(&[&evaluation[..], &["generator.reload_dir=/x"]].concat()).unwrap_err();
    assert_parts(&e, "generator.reload_dir", "--set", "", "generator.reload = \"disk\"", "remove");
    let e = on(&["generator.server=sglang"]).unwrap_err();
    assert_parts(&e, "generator.model", "--set generator.model=m", "", "generator.server = \"vllm\"", "remove");
    let e = set_error("level_mix=1;1");
    assert_parts(&e, "no mixture", "--set level_mix=1;1", "`1;1` is no share", "at least 0", "1,1");
    // A queue of answers is covered, each within its own limit, and a load before it.
    let sample = |more: &str| crate::session::machine_config(&on(&[more, "credits=288"]).unwrap()).sample_deadline_ms;
    assert_eq!(
        [sample("max_batch=288"), sample("max_batch=96"), sample("max_batch=95")],
        [600_000, 1_200_000, 1_500_000]
    );
    // An adoption may take two reloads; our own engine's is what the machine's default says.
    let adopt = |c: &Config| crate::session::machine_config(c).adopt_deadline_ms;
    assert_eq!((adopt(&on(&[]).unwrap()), adopt(&Config::builtin().unwrap())), (600_000, 60_000));
}

#[test]
fn a_deterministic_run_depends_on_nobody() {
    let sets = |more: &[&str]| {
        let all = ["run.deterministic=true"].iter().chain(more).map(ToString::to_string).collect::<Vec<_>>();
        Config::load(&[], &all)
    };
    assert!(sets(&["staleness_max=0"]).unwrap().run.deterministic);
    let e = sets(&[]).unwrap_err();
    assert_parts(&e, "", "", "staleness_max = 1", "rollout.staleness_max = 0", "");
    let e = sets(&["staleness_max=0", "generator.kind=openai", "generator.model=m"]).unwrap_err();
    assert_parts(&e, "", "--set generator.kind", "\"openai\"", "generator.kind = \"burn\"", "");
    let e = sets(&["staleness_max=0", "gpu.devices=all"]).unwrap_err();
    assert_parts(&e, "", "--set gpu.devices", "\"all\"", "gpu.devices = \"none\"", "");
}

#[test]
fn the_guards_keys_are_its_own_and_need_their_alarm() {
    let set = |s: &str| Config::load(&[], &[s.to_string()]);
    let config = Config::load(&[], &[]).unwrap();
    assert_eq!(config.guard, GuardConfig::default(), "the file and the library agree");
    assert!(config.guard.check().is_ok());
    assert_eq!(set("guard.mismatch=stop").unwrap().guard.mismatch, Reaction::Stop);
    assert!(set("guard.not_finite=warn").is_err() && set("guard.mismatch=loud").is_err());
    let e = set("guard.lower_by=0.9").unwrap_err();
    assert_parts(&e, "guard.lower_by", "--set", "", "lower_rate", "");
}

#[test]
fn adapters_need_a_rank_that_fits_and_clear_targets() {
    let load = |sets: &[&str]| Config::load(&[], &sets.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    assert_eq!(Config::builtin().unwrap().lora.settings(), Ok(None), "off by default");
    for set in ["lora.alpha=8", "lora.targets=[\"q_proj\"]", "rslora=true"] {
        let key = set.split_once('=').unwrap().0.trim_start_matches("lora.");
        assert_parts(&set_error(set), "no effect", &format!("--set {set}"), key, "lora.rank above 0", "remove");
    }
    let config =
        load(&["lora.rank=4", "lora.alpha=6", "lora.targets=[\"v_proj\", \"q_proj\"]", "rslora=true"]).unwrap();
    let lora = config.lora.settings().unwrap().unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.rslora, lora.targets.len(), lora.scale()), (4, 6.0, true, 2, 3.0));
    assert!(load(&["lora.rank=64"]).is_ok());
    let e = load(&["lora.rank=65"]).unwrap_err();
    assert_parts(
        &e,
        "rank does not fit",
        "--set lora.rank=65",
        "k_proj goes from 192 to 64",
        "1 to 64",
        "k_proj out of",
    );
    assert!(load(&["lora.rank=65", "lora.targets=[\"q_proj\"]"]).is_ok());
    // A model of the user's own is looked at when it is known.
    let config = load(&["lora.rank=65", "model.dir=m"]).unwrap();
    let shape = model::config::TinyShape { hidden: 256, layers: 1, heads: 2, kv_heads: 1, ff: 512, vocab: 300 };
    let mut shape = model::ModelConfig::tiny_default(shape, 64, vec![1]);
    assert_eq!(adapters(&config, &shape).unwrap().unwrap().rank, 65);
    shape.head_dim = 64;
    let e = adapters(&config, &shape).unwrap_err();
    assert_parts(&e, "rank does not fit", "model.dir = \"m\"", "k_proj goes from 256 to 64", "1 to 64", "");
    let set = "lora.targets=[\"all-linear\", \"q_proj\"]";
    let e = load(&["lora.rank=4", set]).unwrap_err();
    assert_parts(&e, "not clear", &format!("--set {set}"), "\"all-linear\", \"q_proj\"", "each once", "stands alone");
    assert_parts(
        &load(&["lora.rank=4", "lora.targets=[]"]).unwrap_err(),
        "not clear",
        "--set",
        "none",
        "each once",
        "",
    );
    let e = set_error("lora.targets=[\"lm_head\"]");
    assert_parts(&e, "lora.targets", "--set", "lm_head", "\"all-linear\", \"q_proj\"", "");
    assert_parts(&set_error("lora.alpha=0"), "lora.alpha", "--set", "0", "above 0", "");
    assert_parts(&set_error("lora.dropout=0.1"), "lora.dropout", "--set", "dropout", "`rank`", "");
}
