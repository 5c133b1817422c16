//! Where a version's files come from, and what of it is believed.

use super::*;
use crate::cluster::shelf::digest;
use crate::cluster::weights::Shape;
use crate::cluster::wire::BlobRef;

const COOKIE: &str = "a cookie for the larder's tests";

fn cookie() -> Cookie {
    Cookie::new(COOKIE).unwrap()
}

async fn channel() -> (Arc<Shelf>, String) {
    let shelf = Arc::<Shelf>::default();
    let address = serve("127.0.0.1:0", shelf.clone(), cookie()).await.unwrap();
    (shelf, address)
}

fn client(address: &str) -> Client {
    let (host, port) = address.rsplit_once(':').unwrap();
    Client::new(host, port.parse().unwrap(), cookie()).unwrap()
}

/// Longer than one piece.
fn content() -> Vec<u8> {
    (0..(bulk::PIECE_MAX as usize + 5000)).map(|n| (n * n % 251) as u8).collect()
}

fn manifest(name: &str, shared: Option<&str>) -> Manifest {
    let blob = BlobRef { digest: digest(&content()), bytes: content().len() as u64 };
    Manifest {
        policy: PolicyVersion(7),
        epoch: 1,
        shape: Shape::Whole,
        files: vec![FileRef { name: name.into(), blob }],
        base: Vec::new(),
        shared: shared.map(str::to_string),
    }
}

fn offer(head: &Shelf, manifest: &Manifest, peers: &[&str]) -> Offer {
    let manifest = head.put(serde_json::to_vec(manifest).unwrap());
    Offer { policy: PolicyVersion(7), manifest, peers: peers.iter().map(|peer| peer.to_string()).collect() }
}

async fn larder(dir: &Path, shared: Option<PathBuf>, listen: &str) -> Larder {
    Larder::open(dir.join("larder"), shared, cookie(), listen).await.unwrap()
}

/// The head has only the manifest. Planted: `file` never asks a peer. Seen: 404 from the head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_comes_from_a_node_that_holds_it_and_is_offered_on() {
    let dir = tempfile::tempdir().unwrap();
    let ((head, head_at), (_, empty_at), (peer, peer_at)) = (channel().await, channel().await, channel().await);
    peer.put(content());
    let mut larder = larder(dir.path(), None, "127.0.0.1:0").await;
    // What an earlier try has left is not asked for again, and it counts.
    let folder = dir.path().join("larder/v000007");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("w.part"), &content()[..3_000_000]).unwrap();
    let offer = offer(&head, &manifest("w", None), &[&empty_at, &peer_at]);
    let stored = larder.fetch().version(&offer, &client(&head_at)).await.unwrap();
    assert_eq!(std::fs::read(stored.folder.join("w")).unwrap(), content());
    let blob = stored.manifest.files[0].blob.clone();
    larder.keep(stored);
    // And a third node has it from us.
    let ours = client(&larder.serves().unwrap());
    assert_eq!(ours.get(&blob).await.unwrap(), content());
    let stored =
        |n| Stored { policy: PolicyVersion(n), manifest: manifest("w", None), folder: dir.path().join("other") };
    larder.keep(stored(8));
    assert!(folder.exists(), "somebody may still be fetching it");
    larder.keep(Stored { manifest: Manifest { files: vec![], ..manifest("w", None) }, ..stored(9) });
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_beginning_is_thrown_away_and_a_file_elsewhere_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (head, head_at) = channel().await;
    head.put(content());
    let larder = larder(dir.path(), None, "").await;
    assert_eq!(larder.serves(), None);
    let folder = dir.path().join("larder/v000007");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("w.part"), vec![1; 1000]).unwrap();
    let whole = offer(&head, &manifest("w", None), &[]);
    let head_client = client(&head_at);
    let why = larder.fetch().version(&whole, &head_client).await.err().unwrap();
    assert!(why.contains("BLAKE3"), "{why}");
    let stored = larder.fetch().version(&whole, &head_client).await.unwrap();
    assert_eq!(std::fs::read(stored.folder.join("w")).unwrap(), content());
    let outside = offer(&head, &manifest("../w", None), &[]);
    let why = larder.fetch().version(&outside, &head_client).await.err().unwrap();
    assert!(why.contains("../w"), "{why}");
}

/// Neither head nor peer has the file. Planted: the shared folder is believed unread. Seen: the second part has other content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_folder_is_read_and_believed_only_by_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let (head, head_at) = channel().await;
    let shared = dir.path().join("shared/run/v000007");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("w"), content()).unwrap();
    let larder = larder(dir.path(), Some(dir.path().join("shared")), "").await;
    let offer = offer(&head, &manifest("w", Some("run/v000007")), &[]);
    let stored = larder.fetch().version(&offer, &client(&head_at)).await.unwrap();
    assert_eq!(std::fs::read(stored.folder.join("w")).unwrap(), content());
    std::fs::remove_dir_all(&stored.folder).unwrap();
    let mut other = content();
    other[17] ^= 1;
    std::fs::write(shared.join("w"), &other).unwrap();
    head.put(content());
    let stored = larder.fetch().version(&offer, &client(&head_at)).await.unwrap();
    assert_eq!(std::fs::read(stored.folder.join("w")).unwrap(), content());
}

/// Lets everybody in, and says nothing; how many came.
async fn mute() -> (Arc<std::sync::atomic::AtomicUsize>, String) {
    let came = Arc::<std::sync::atomic::AtomicUsize>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counted) = (listener.local_addr().unwrap().to_string(), came.clone());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            kept.push(stream);
        }
    });
    (came, address)
}

/// A frozen process still accepts. Should fail with (not tried): peers are asked as patiently as the head, for every file (as it was). then: it is asked again and
/// again, for minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_says_nothing_is_asked_once_for_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let ((head, head_at), (came, mute_at)) = (channel().await, mute().await);
    let other = head.put(b"another file".to_vec());
    let whole = Manifest { base: vec![FileRef { name: "b".into(), blob: other }], ..manifest("w", None) };
    let larder = larder(dir.path(), None, "").await;
    let offer = offer(&head, &whole, &[&mute_at]);
    // The head does not have it yet: another try follows.
    let why = larder.fetch().version(&offer, &client(&head_at)).await.err().unwrap();
    assert!(why.contains("404"), "{why}");
    head.put(content());
    let stored = larder.fetch().version(&offer, &client(&head_at)).await.unwrap();
    assert_eq!(std::fs::read(stored.folder.join("w")).unwrap(), content());
    assert_eq!(came.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_a_version_that_is_given_up_goes_unless_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let mut larder = larder(dir.path(), None, "127.0.0.1:0").await;
    let stored = |n| {
        let folder = version_folder(&dir.path().join("larder"), PolicyVersion(n));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("w"), content()).unwrap();
        larder.shelf.put_known(&manifest("w", None).files[0].blob, &folder.join("w"));
        Stored { policy: PolicyVersion(n), manifest: manifest("w", None), folder }
    };
    let (used, coming, left) = (stored(1), stored(2), stored(3));
    larder.keep(used);
    (1..=3).for_each(|n| larder.abandon(PolicyVersion(n), std::slice::from_ref(&coming)));
    assert!(coming.folder.exists() && version_folder(&dir.path().join("larder"), PolicyVersion(1)).exists());
    assert!(!left.folder.exists());
    assert_eq!(larder.shelf.bytes(&digest(&content())), None, "it was this folder's");
}

/// Never silent, and never done. Should fail with (not tried): a node may be as slow as the head may (as it was). then: minutes for a file of 1 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_trickles_is_left() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (dir, (head, head_at)) = (tempfile::tempdir().unwrap(), channel().await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow_at = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1048576\r\n\r\n").await;
                // As the file begins.
                while stream.write_all(&[0]).await.is_ok() {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            });
        }
    });
    let bytes = vec![0; 1 << 20];
    let whole =
        Manifest { files: vec![FileRef { name: "w".into(), blob: head.put(bytes.clone()) }], ..manifest("w", None) };
    let larder = larder(dir.path(), None, "").await;
    let (offer, client, fetch) = (offer(&head, &whole, &[&slow_at]), client(&head_at), larder.fetch());
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), fetch.version(&offer, &client)).await;
    let stored = ended.expect("the head is asked").unwrap();
    assert!(std::fs::read(stored.folder.join("w")).unwrap() == bytes);
}
