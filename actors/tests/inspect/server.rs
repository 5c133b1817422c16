//! The dashboard's server over HTTP: who is answered, with which headers, and what.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::dashboard::{Access, Dashboard};
use actors::inspect::Run;
use actors::inspect::query::Query;
use actors::store::{Op, SpanRow, Writer};
use actors::watch::source::{Remote, Source};
use reqwest::header::{AUTHORIZATION, COOKIE, HOST, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::fixture::{self, HOSTILE, SECRET};

const TOKEN: &str = "a-token-of-some-length";
const LONG: Duration = Duration::from_secs(30);

struct Server {
    address: SocketAddr,
    client: Client,
    writer: Writer,
    first: u64,
    _dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn server(access: Access) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let writer = fixture::begin(dir.path()).unwrap();
    let first = fixture::hostile(&writer.handle()).unwrap();
    writer.handle().flush(LONG).unwrap();
    let run = Arc::new(Run::open(dir.path()).unwrap());
    let mut watch = run.watch();
    let dashboard = Dashboard::bind(run, "127.0.0.1:0".parse().unwrap(), access).await.unwrap();
    let address = dashboard.address().unwrap();
    let task = tokio::spawn(dashboard.serve());
    tokio::time::timeout(LONG, watch.wait_for(|p| p.loaded)).await.unwrap().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client =
        Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().timeout(LONG).build().unwrap();
    Server { address, client, writer, first, _dir: dir, task }
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }
}

/// Every kind of answer: pages, files, JSON, errors.
const PATHS: &[&str] = &[
    "/",
    "/login",
    "/static/app.js",
    "/api/overview",
    "/api/rollouts",
    "/api/rollout/0",
    "/api/rollout/99999",
    "/api/rollout/0/diff/1",
    "/api/rollouts?filter=nonsense",
    "/api/tasks",
    "/api/crew",
    "/api/timeline",
    "/api/timeline?window_s=999999999",
    "/api/pulse",
    "/api/rollout/0/text",
    "/metrics",
    "/nowhere",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers_and_none_the_secret() {
    let server = server(Access::default()).await;
    for path in PATHS {
        let response = server.get(path).await;
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_string();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!((header("x-content-type-options"), header("x-frame-options")), ("nosniff".into(), "DENY".into()));
        assert_eq!(header("referrer-policy"), "same-origin");
        // What a model wrote comes as JSON or plain text, which no browser takes for a page.
        let kind = header("content-type");
        let ours = matches!(*path, "/" | "/login");
        assert_eq!(kind.starts_with("text/html"), ours, "{path}: {kind}");
        let body = response.text().await.unwrap();
        assert!(!body.contains(SECRET), "{path} shows the executors' secret");
        assert!(!ours || !body.contains("hacked"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_another_site_and_another_method_are_turned_away() {
    let server = server(Access { token: None, hosts: vec!["box.example".into()] }).await;
    let with = async |name: &str, value: &str| {
        server.client.get(server.url("/api/overview")).header(name, value).send().await.unwrap().status()
    };
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", "10.1.2.3"] {
        assert_eq!(with(HOST.as_str(), host).await, StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    for host in ["localhost:7007", "127.0.0.1", "[::1]:80", "box.example"] {
        assert_eq!(with(HOST.as_str(), host).await, StatusCode::OK, "{host}");
    }
    assert_eq!(with("origin", "http://evil.example").await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(with("origin", "null").await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(with("sec-fetch-site", "cross-site").await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(with("sec-fetch-site", "same-origin").await, StatusCode::OK);
    for path in PATHS.iter().filter(|p| p.starts_with("/api")) {
        for request in [server.client.post(server.url(path)), server.client.delete(server.url(path))] {
            assert_eq!(request.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_is_told_without_it_and_a_cookie_is_as_good() {
    let server = server(Access { token: Some(TOKEN.into()), hosts: Vec::new() }).await;
    for path in PATHS.iter().filter(|p| p.starts_with("/api") || **p == "/metrics") {
        // In an address a token counts for nothing.
        for path in [path.to_string(), format!("{path}?token={TOKEN}")] {
            assert_eq!(server.get(&path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
        }
    }
    let home = server.get("/").await;
    assert_eq!((home.status(), home.headers()[LOCATION].to_str().unwrap()), (StatusCode::SEE_OTHER, "/login"));
    let bearer =
        |token: &str| server.client.get(server.url("/api/overview")).header(AUTHORIZATION, format!("Bearer {token}"));
    assert_eq!(bearer(TOKEN).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(bearer("another").send().await.unwrap().status(), StatusCode::UNAUTHORIZED);

    let form = |token: &str| {
        let form = server.client.post(server.url("/login")).header("content-type", "application/x-www-form-urlencoded");
        form.body(format!("token={token}"))
    };
    let wrong = form("%3Cscript%3E").send().await.unwrap();
    assert_eq!((wrong.status(), wrong.headers().get(SET_COOKIE)), (StatusCode::UNAUTHORIZED, None));
    assert!(!wrong.text().await.unwrap().contains("<script>"));
    let right = form(TOKEN).send().await.unwrap();
    assert_eq!(right.status(), StatusCode::SEE_OTHER);
    let cookie = right.headers()[SET_COOKIE].to_str().unwrap().to_string();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(TOKEN), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    // A browser sends a cookie to all ports of a host, and keeps one of each name.
    assert!(pair.starts_with(&format!("troupe_session_{}=", server.address.port())), "{pair}");
    let asked = server.client.get(server.url("/api/overview")).header(COOKIE, pair);
    assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_data_is_what_the_store_holds_and_errors_say_what_is_wrong() {
    let server = server(Access::default()).await;
    let page = server.json("/api/rollouts?filter=id%20%3C%203&sort=id").await;
    assert_eq!((&page["matching"], &page["all"]), (&Value::from(3), &Value::from(server.first)));
    let ids: Vec<u64> = page["rollouts"].as_array().unwrap().iter().map(|r| r["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1, 2]);
    for (id, text) in HOSTILE.iter().enumerate() {
        let found = server.json(&format!("/api/rollout/{id}")).await;
        assert!(found["plan"].as_str().unwrap().contains(text), "to the letter, as text");
        assert_eq!(found["seed"], (u64::MAX - id as u64).to_string(), "not rounded to a double");
        assert_eq!(found["tokens"]["policies"][11], 7);
        assert_eq!(found["tokens"]["policies"][12], 8);
    }
    let difference = server.json("/api/rollout/0/diff/1").await;
    assert!(difference.as_array().unwrap().iter().any(|l| l["tag"] == "+"), "{difference}");

    let response = server.get("/api/rollouts?filter=verdit%20%3D%20passed").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let error: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(error["error"]["hint"], "did you mean `verdict`?");
    // A level is looked up by the task's name and is no column to sort by.
    for sort in ["colour", "level", "-level", "staleness"] {
        let response = server.get(&format!("/api/rollouts?sort={sort}")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{sort}");
        let body = response.text().await.unwrap();
        assert!(!body.contains("did you mean `level`"), "{body}");
    }
    for path in ["/api/rollout/4711", "/api/task/unknown", "/static/../Cargo.toml", "/static/secret"] {
        assert_eq!(server.get(path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let line = format!("troupe_rollouts{{phase=\"train\",ending=\"trained\"}} {}", server.first);
    assert!(metrics.lines().any(|l| l == line), "{metrics}");
    assert!(
        metrics.contains("troupe_faults_total{code=\"F103\"} 4") && metrics.contains("troupe_batch_reward_code 0.8")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn curves_come_again_only_with_a_new_step() {
    let server = server(Access::default()).await;
    let whole = server.json("/api/overview").await;
    assert_eq!(whole["steps"]["x"][7], 8.0);
    assert_eq!(whole["steps"]["y"]["batch.reward_code"][2], 0.3, "as many digits as can be seen");
    let short = server.json("/api/overview?have=8").await;
    assert_eq!((&short["steps"], &short["ledger"]), (&Value::Null, &whole["ledger"]));
    assert_eq!(server.json("/api/overview?have=7").await["steps"], whole["steps"]);
    server.writer.handle().send(vec![fixture::step(9)]).unwrap();
    server.writer.handle().flush(LONG).unwrap();
    let until = Instant::now() + LONG;
    loop {
        let next = server.json("/api/overview?have=8").await;
        if next["steps"]["x"][8] == 9.0 {
            break;
        }
        assert!(Instant::now() < until, "the ninth step never came: {next}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The last point of the curves is a mean of three steps here.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_step_of_a_long_run_is_told_and_not_a_mean() {
    let server = server(Access::default()).await;
    server.writer.handle().send((9..=603).map(fixture::step).collect()).unwrap();
    server.writer.handle().flush(LONG).unwrap();
    let until = Instant::now() + LONG;
    let overview = loop {
        let next = server.json("/api/overview").await;
        if next["steps"]["x"].as_array().unwrap().last() == Some(&Value::from(603.0)) {
            break next;
        }
        assert!(Instant::now() < until, "the last step never came: {next}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(overview["steps"]["x"].as_array().unwrap().len() < 603);
    assert_eq!(overview["last"]["batch.reward_code"], 60.3);
    assert_eq!(server.json("/api/overview?have=603").await["last"], overview["last"]);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.lines().any(|l| l.starts_with("troupe_batch_reward_code 60.3")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_rollout_is_told() {
    let server = server(Access::default()).await;
    let mut stream = server.get("/api/live").await;
    let mut seen = String::new();
    let mut next = async |text: &str| {
        let wait = async {
            while !seen.contains(text) {
                seen += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("no {text}"));
    };
    next(&format!("\"rollouts\":{}", server.first)).await;
    let began = Instant::now();
    server.writer.handle().send(fixture::issued(server.first)).unwrap();
    next("\"open\":1").await;
    println!("told after {:?}", began.elapsed());
    let page = server.json("/api/rollouts?filter=ending%20%3D%20none").await;
    assert_eq!(page["rollouts"][0]["id"], server.first);
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_queues_gpus_and_happenings_are_told_as_they_were_noted() {
    let server = server(Access::default()).await;
    let t = server.json("/api/timeline").await;
    assert_eq!((&t["noted"], &t["left_out"]), (&Value::from(true), &Value::from(0)));
    let lanes = t["lanes"].as_array().unwrap();
    assert_eq!(lanes.len(), 5, "one of ours, one of each hostile node");
    let gpu = format!("gpu 0 ({})", HOSTILE[0]);
    assert_eq!((&lanes[0]["name"], &lanes[0]["gpu"]), (&Value::from("executor 0"), &Value::from(gpu.as_str())));
    let busy = lanes[0]["busy"].as_f64().unwrap();
    // The first began nine seconds before the store was made.
    let known = (t["to"].as_u64().unwrap() - t["known_from"].as_u64().unwrap()) as f64;
    assert!((busy * known - 3_600.0).abs() < 1.0, "4 times 0.9 s since the first began: {busy} of {known} ms");
    let curves = &t["sources"]["gpu 0"]["curves"];
    assert_eq!((curves["x"].as_array().unwrap().len(), &curves["y"]["sm_mhz"][9]), (10, &Value::from(1909.0)));
    assert_eq!(t["sources"]["pool"]["last"]["nodes"][0]["name"], HOSTILE[1]);
    assert_eq!(t["happenings"][3]["what"], "started", "the newest first");
    let one = server.json("/api/timeline?window_s=1").await;
    assert!(one["lanes"].as_array().unwrap().len() < lanes.len(), "{one}");
    // Rollout 7 is with its executor now, 3 was lost, 2 was trained on.
    let place = |page: &Value| page["places"][0].clone();
    let seventh = place(&server.json("/api/rollout/7").await);
    assert_eq!((&seventh["ended_ms"], &seventh["stages"][2][0]), (&Value::Null, &Value::from("time")));
    assert_eq!(place(&server.json("/api/rollout/3").await)["ending"], "F103");
    let second = server.json("/api/rollout/2").await;
    assert_eq!(place(&second)["gpu"], gpu.as_str());
    let learner = &second["tokens"]["learner"];
    assert_eq!((learner["entropies"].as_array().unwrap().len(), &learner["entropies"][0]), (20, &Value::from(0.5)));
    assert_eq!(server.json("/api/rollout/1").await["tokens"]["learner"], Value::Null);
}

/// More spans than are drawn, and a window that is longer than what is known.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_always_works_is_busy_all_the_time_whatever_is_drawn_and_kept() {
    const SPANS: u64 = 5_000;
    let server = server(Access::default()).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let span = |n: u64| {
        let began_ms = now - 10 * (SPANS - n);
        Op::Span(SpanRow {
            id: 100 + n,
            lane: "executor 1".into(),
            began_ms,
            ended_ms: Some(began_ms + 10),
            ending: Some("report".into()),
            ..SpanRow::default()
        })
    };
    server.writer.handle().send((0..SPANS).map(span).collect()).unwrap();
    server.writer.handle().flush(LONG).unwrap();
    let t = server.json("/api/timeline?window_s=3600").await;
    let lane = t["lanes"].as_array().unwrap().iter().find(|l| l["name"] == "executor 1").unwrap();
    assert!(t["left_out"].as_u64().unwrap() >= SPANS - 4_000, "{}", t["left_out"]);
    assert!(lane["spans"].as_array().unwrap().len() <= 4_000);
    let known = t["to"].as_u64().unwrap() - t["known_from"].as_u64().unwrap();
    let busy = lane["busy"].as_f64().unwrap() * known as f64;
    assert!((busy - 10.0 * SPANS as f64).abs() < 1.0, "{busy} ms of {known} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sees_through_a_dashboard_what_it_sees_in_the_directory() {
    let server = server(Access { token: Some(TOKEN.into()), hosts: Vec::new() }).await;
    let (address, dir) = (server.url("/"), server._dir.path().to_path_buf());
    let asked = tokio::task::spawn_blocking(move || {
        let refused = Remote::open(&address, None).err().unwrap();
        assert!(refused.to_string().contains("asks for a token"), "{refused}");
        let far = Source::Url(Remote::open(&address, Some(TOKEN)).unwrap());
        let run = Arc::new(Run::open(&dir).unwrap());
        run.catch_up().unwrap();
        let near = Source::Dir(run);
        assert_eq!(far.pulse().unwrap().rollouts, near.pulse().unwrap().rollouts);
        let overview = |source: &Source| {
            let mut o = source.overview().unwrap();
            o.for_a_page();
            (o.ledger, o.verdicts, o.steps, o.last, o.alarms, o.faults, o.hacks)
        };
        assert_eq!(overview(&far), overview(&near));
        // The pages of tasks, executors and actors.
        let pages = |source: &Source| {
            let (crew, timeline) = (source.crew().unwrap(), source.timeline(60).unwrap());
            let tasks = source.tasks().unwrap();
            let lanes: Vec<_> = timeline.lanes.into_iter().map(|l| (l.name, l.gpu, l.spans)).collect();
            let text = format!("{tasks:?} {:?} {:?}", crew.faults, crew.stages);
            (text, lanes, timeline.leases, timeline.happenings)
        };
        assert_eq!(pages(&far), pages(&near));
        let page = |source: &Source, filter: &str| {
            let query = Query { filter: filter.into(), limit: 3, ..Query::default() };
            source.page(&query).map(|p| (p.rollouts, p.matching, p.all))
        };
        // A search that a stall cut off has seen less.
        let whole = |source: &Source| {
            let until = std::time::Instant::now() + LONG;
            loop {
                let found = page(source, "id >= 2 and answer ~ import").unwrap();
                if found.1.is_some() || std::time::Instant::now() >= until {
                    return found;
                }
            }
        };
        assert_eq!(whole(&far), whole(&near));
        let wrong = page(&far, "verdit = passed").unwrap_err();
        assert!(wrong.contains("did you mean `verdict`"), "{wrong}");
        for id in 0..HOSTILE.len() as u64 {
            let text = far.text(id).unwrap().unwrap();
            assert_eq!(Some(&text), near.text(id).unwrap().as_ref());
            assert!(!text.contains(|c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}'), "{id}");
        }
        assert!(far.text(4711).is_err());
    });
    asked.await.unwrap();
}
