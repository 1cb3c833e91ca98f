//! What a customer costs: `cargo bench -p km-tests --bench packages`.
//!
//! One compile for a thousand customers, against recompiling for each and against compressing each
//! whole; ten thousand customers published into a folder; and an installation against the tools that
//! do the same by hand. Every figure is CPU time (user and system, all threads and children), so that
//! other work on the machine counts little; the ratios are between runs of this very process.
//!
//! Needs `minisign` (`apt-get install minisign`), `zstd`, `tar` and `sha256sum`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use km_pack::customers::{Address, Database};
use km_pack::environment::Environment;
use km_pack::plan::{Plan, Request, Wanted};
use km_pack::release::Release;
use km_pack::sign::SigningKey;
use km_package::archive::{self, ArchiveFile};
use km_package::digest::Digest;
use km_package::index::Index;
use km_package::key::TrustedKeys;
use km_package::manifest::{Customer, FileEntry};
use km_package::tier::Tier;
use km_package::verify::{Context, Sink, UntrustedPackage, verify};
use km_tests::load::{self, Random, Requests};
use km_tests::{ApiServer, binary, path, workspace};

const PLUGIN: &str = "console-logger";
const EXECUTABLE: &str = "km-plugin-console-logger";
const CUSTOMERS: usize = 1000;
const WRITTEN: usize = 200;
const PUBLISHED: usize = 10_000;
const ROUNDS: usize = 15;

fn main() {
    // `cargo test --benches` only asks whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = SigningKey::generate(&folder.path().join("keys"), "release").expect("a key");
    let environment =
        Environment { current_dir: workspace(), cargo_target_dir: Some(target_dir()), ..Environment::read() };
    let request = Request {
        plugin: Wanted::Source(PLUGIN.to_owned()),
        customers: (0..CUSTOMERS).map(customer).collect(),
        targets: Vec::new(),
        sequence: Some(1),
        key: Some(key.private_path.clone()),
        debug: false,
    };
    let plan = Plan::gather(request, &environment).expect("a plan");
    let compiled = plan.compilers[0].compile(&plan.source).expect("it compiles");
    let once = cpu();
    let release = compiled.release(&plan.key, plan.options).expect("a release");
    let once = cpu() - once;

    one_compile(&plan, &release, once, folder.path());
    publish(&key.private_path, folder.path());
    install(&plan, &release, &key.public_path, folder.path());
}

/// A thousand customers, and the alternatives.
fn one_compile(plan: &Plan, release: &Arc<Release>, once: Duration, folder: &Path) {
    let make = |customer: &Customer| {
        let stamped = release.stamp(customer.clone(), &plan.key).expect("an identity");
        stamped.describe().expect("described").sign(&plan.key)
    };
    let mut bytes = 0;
    let memory = per_package(CUSTOMERS, |number| {
        let package = make(&plan.customers[number]);
        let whole = package.to_bytes();
        bytes = whole.len();
        std::hint::black_box(whole);
    });
    let dist = folder.join("dist");
    let before = cpu();
    let packages = plan.customers[..WRITTEN].iter().map(|customer| make(customer).write(&dist));
    let packages = packages.collect::<Result<_, _>>().expect("written");
    assert_eq!(km_pack::archive::finish(packages, &dist).expect("on the disk").len(), WRITTEN);
    let written = (cpu() - before) / WRITTEN as u32;
    std::fs::remove_dir_all(&dist).expect("removed");

    let whole = make(&plan.customers[0]);
    let head = whole.head.to_bytes().len();
    let executable = executable_of(plan, whole);
    let tar = || {
        let name = EXECUTABLE.parse().expect("a name");
        let file = ArchiveFile { path: &name, bytes: &executable, executable: true };
        archive::write(&[file], plan.options.created).expect("an archive")
    };
    let recompress = |level, times| {
        let mut size = 0;
        let cost = per_package(times, |number| {
            let tar = tar();
            let digests = (Digest::of(&executable), Digest::of(&tar));
            let frame = archive::compress(&tar, level).expect("compressed");
            let text = format!("{digests:?} {:?} {number}", Digest::of(&frame));
            std::hint::black_box(plan.key.sign(text.as_bytes()));
            size = frame.len();
        });
        (cost, size)
    };
    let (level_3, _) = recompress(3, 20);
    let (level_19, size_19) = recompress(19, 2);
    let recompile = per_package(2, recompile) + level_19;

    println!("\n{CUSTOMERS} customers of {PLUGIN} ({} bytes), CPU per package:", executable.len());
    println!("  compressing the shared frames, once for all: {}", ms(once));
    let rows = [
        ("stamped, in memory", memory),
        ("stamped, written to disk", written),
        ("stamped, compressed whole, level 3", level_3),
        ("stamped, compressed whole, level 19", level_19),
        ("recompiled, compressed whole, level 19", recompile),
    ];
    for (name, cost) in rows {
        println!("  {name:40} {:>12}  {:>9.0}×", ms(cost), ratio(cost, memory));
    }
    goal("packages per CPU second, of recompiling", ratio(recompile, memory), 10_000.0);
    goal("of recompressing at level 3, in memory", ratio(level_3, memory), 100.0);
    goal("of recompressing at level 3, written to disk", ratio(level_3, written), 40.0);
    let more = ((bytes - head) as f64 / size_19 as f64 - 1.0) * 100.0;
    println!("  bytes: {} in frames, {size_19} whole: {more:+.3} % (goal: at most 0.2)", bytes - head);
}

/// Ten thousand customers, by the command, into a folder.
fn publish(key: &Path, folder: &Path) {
    let run = |count: usize, store: &Path| {
        let list = folder.join("customers.csv");
        let rows = (0..count).map(|number| format!("customer-{number},Pro\n"));
        std::fs::write(&list, format!("id,tier\n{}", rows.collect::<String>())).expect("written");
        let mut command = Command::new(binary("km-pack"));
        command
            .args(["build", "--plugin", PLUGIN, "--sequence", "1", "--publish", "--json"])
            .args(["--customers", path(&list), "--store", path(store), "--key", path(key)])
            .current_dir(workspace())
            .env("CARGO_TARGET_DIR", target_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (start, before) = (Instant::now(), cpu_of_children());
        assert!(command.status().expect("km-pack runs").success());
        (cpu_of_children() - before, start.elapsed())
    };
    let (few, _) = run(10, &folder.join("few"));
    let store = folder.join("store");
    let (all, wall) = run(PUBLISHED, &store);
    let each = (all - few) / (PUBLISHED as u32 - 10);
    let (objects, shared) = sizes(&store);
    let bytes = (objects - shared) as f64 / PUBLISHED as f64;
    println!("\n{PUBLISHED} customers published into a folder, {:.1} s on the clock:", wall.as_secs_f64());
    println!("  CPU for each customer:   {} (goal: at most 2 ms)", ms(each));
    println!(
        "  the same with what is done once, the compiler's check included: {}",
        ms(all / PUBLISHED as u32)
    );
    println!("  bytes for each customer: {bytes:.0} (goal: at most 4096), beside {shared} shared by all");
    serve(&store);
}

/// What was published, asked for by all of them.
fn serve(store: &Path) {
    let options = ["--rate-limit", "1000000", "--no-access-log"];
    let server = ApiServer::with_store(path(store), &[], &options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let api_key = |number: usize| format!("km_live_{number:043}");
    runtime.block_on(async {
        let address = Address::parse(server.database(), Path::new("/")).expect("an address");
        let database = Database::open(&address).await.expect("it opens");
        let customers = (0..PUBLISHED)
            .map(|number| (customer(number).id, Tier::Pro, api_key(number).parse().expect("a key")));
        database.add_customers(customers).await.expect("they are added");
        database.close().await;
    });
    let files: Vec<String> = (0..PUBLISHED)
        .map(|number| {
            let index = std::fs::read(store.join(format!("index/customer-{number}.toml"))).expect("an index");
            Index::parse(&index).expect("an index").packages[0].file_name()
        })
        .collect();
    let health = |_: &mut Random| "GET /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned();
    let provision = move |number: usize| {
        let body = "{\"platform\":\"linux-amd64\",\"plugins\":[\"all\"]}";
        format!(
            "POST /api/plugins/provision HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            api_key(number),
            body.len()
        )
    };
    let download = move |random: &mut Random| {
        let number = random.below(PUBLISHED);
        format!(
            "GET /api/plugins/download/{} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            files[number],
            api_key(number)
        )
    };
    let next = Arc::new(AtomicUsize::new(0));
    let first = move |_: &mut Random| provision(next.fetch_add(1, Ordering::Relaxed) % PUBLISHED);
    let again = move |random: &mut Random| provision(random.below(PUBLISHED));
    println!("\nthe server, {PUBLISHED} customers, 16 connections, cores shared with who asks:");
    let rows: [(&str, usize, Requests); 4] = [
        ("GET /health, the peer", 10_000, Arc::new(health)),
        ("provision, for each customer the first", PUBLISHED, Arc::new(first)),
        ("provision, after that", 10_000, Arc::new(again)),
        ("download of a whole package", 3_000, Arc::new(download)),
    ];
    for (name, requests, make) in rows {
        let address = server.url().trim_start_matches("http://").parse().expect("an address");
        let before = load::cpu(server.pid());
        let (rate, mut times) = runtime.block_on(load::load(address, 16, requests, make));
        let each = (load::cpu(server.pid()) - before) / u32::try_from(times.len()).expect("not so many");
        times.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| ms(times[times.len() * percent / 100]));
        println!("  {name:40} {rate:>8.0}/s  p50 {p50:>11}  p99 {p99:>11}  CPU {}", ms(each));
    }
}

/// `km plugins install`, and what does the same by hand.
fn install(plan: &Plan, release: &Arc<Release>, public_key: &Path, folder: &Path) {
    let package = release.stamp(plan.customers[0].clone(), &plan.key).expect("an identity");
    let package = package.describe().expect("described").sign(&plan.key).write(folder).expect("written");
    let package = km_pack::archive::finish(vec![package], folder).expect("on the disk").remove(0).path;
    let by_hand = folder.join("by-hand");
    std::fs::create_dir_all(&by_hand).expect("a folder");
    let script = |text: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-euc", text]).env("package", &package).current_dir(&by_hand);
        let output = sh.output().expect("sh runs");
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    };
    script("minisign -G -W -p key.pub -s key.sec; zstd -dc \"$package\" | zstd -q -19 -o plugin.tar.zst");
    script("minisign -S -s key.sec -m plugin.tar.zst; sha256sum plugin.tar.zst > SHA256SUMS");

    let run_km = |number: usize| {
        let home = folder.join(format!("home-{number}"));
        let km = |arguments: &[&str]| {
            let mut km = Command::new(binary("km"));
            km.args(arguments).env("KM_HOME", &home).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(km.status().expect("km runs").success(), "{arguments:?}");
        };
        km(&["trust", "add", path(public_key)]);
        let before = cpu_of_children();
        km(&["plugins", "install", path(&package)]);
        cpu_of_children() - before
    };
    // km holds the archive as it came, and each file in it, against a digest; here one of both.
    let run_hand = |number: usize, digests: &str| {
        let before = cpu_of_children();
        script(&format!(
            "minisign -Vqm plugin.tar.zst -p key.pub; mkdir out-{number}; tar --zstd -xf plugin.tar.zst \
             -C out-{number}; {digests}; rm -r out-{number}"
        ));
        cpu_of_children() - before
    };
    script(&format!("tar --zstd -xf plugin.tar.zst; sha256sum {EXECUTABLE} > FILES; rm {EXECUTABLE}"));
    let (mut km, mut archive, mut file) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        km.push(run_km(number));
        archive.push(run_hand(number, "sha256sum --quiet -c SHA256SUMS"));
        file.push(run_hand(number, &format!("cd out-{number}; sha256sum --quiet -c ../FILES; cd ..")));
    }
    let (km, archive, file) = (median(km), median(archive), median(file));
    println!("\ninstalling {PLUGIN}, CPU, median of {ROUNDS}:");
    println!("  km plugins install: archive, tar, file and identity, with fsync  {}", ms(km));
    println!("  minisign -V, tar --zstd -xf, sha256sum -c of the archive         {}", ms(archive));
    println!("  minisign -V, tar --zstd -xf, sha256sum -c of the file            {}", ms(file));
    goal("the CPU by hand, digest of the archive", ratio(archive, km), 3.0);
    goal("the CPU by hand, digest of the file", ratio(file, km), 3.0);
}

fn customer(number: usize) -> Customer {
    let id = format!("customer-{number}").parse().expect("an id");
    Customer { id, tier: Tier::Pro, api_key_sha256: None }
}

/// Compiles the plugin's own crate again, as a changed constant would, and links it.
fn recompile(number: usize) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["rustc", "--release", "--quiet", "-p", EXECUTABLE, "--bin", EXECUTABLE, "--target-dir"])
        .arg(target_dir().join("km-pack"))
        .args(["--", "--cfg", &format!("customer_{number}_{}", std::process::id())])
        .env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1")
        .current_dir(workspace());
    assert!(cargo.status().expect("cargo runs").success());
}

/// The executable in a package, taken out by verifying it.
fn executable_of(plan: &Plan, package: km_pack::sign::Signed) -> Vec<u8> {
    struct Bytes(Vec<u8>);
    impl Sink for Bytes {
        fn begin(&mut self, _: &FileEntry) -> io::Result<()> {
            Ok(())
        }
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let whole = package.to_bytes();
    let keys = TrustedKeys::from_iter([*plan.key.public()]);
    let context = Context::passing_on(package.manifest.target.platform.clone(), plan.options.created);
    let package = UntrustedPackage::open(&whole[..], Bytes(Vec::new())).expect("a package");
    verify(package, &keys, &context).expect("it holds").into_contents().0
}

/// Where the benchmark's own program lies, and everything else that is compiled for it.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows its path");
    program.ancestors().nth(3).expect("it lies in target/release/deps").to_path_buf()
}

/// The bytes of all objects of a store, and of the two largest frames, which all customers share.
fn sizes(store: &Path) -> (u64, u64) {
    let (mut all, mut frames) = (0, Vec::new());
    for folder in ["index", "manifests", "frames"] {
        for entry in std::fs::read_dir(store.join(folder)).expect("a folder").flatten() {
            let size = entry.metadata().expect("metadata").len();
            all += size;
            if folder == "frames" {
                frames.push(size);
            }
        }
    }
    frames.sort_unstable();
    (all, frames.iter().rev().take(2).sum())
}

fn per_package(times: usize, mut make: impl FnMut(usize)) -> Duration {
    let before = cpu() + cpu_of_children();
    (0..times).for_each(&mut make);
    (cpu() + cpu_of_children() - before) / times as u32
}

/// CPU time of this process.
fn cpu() -> Duration {
    used(libc::RUSAGE_SELF)
}

/// CPU time of all processes that it has waited for.
fn cpu_of_children() -> Duration {
    used(libc::RUSAGE_CHILDREN)
}

fn used(whose: libc::c_int) -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a structure of the type that the call fills in.
    let usage = unsafe {
        assert_eq!(libc::getrusage(whose, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

fn goal(what: &str, found: f64, wanted: f64) {
    let verdict = if found >= wanted { "reached" } else { "NOT REACHED" };
    println!("  {what}: {found:.1}× (goal: {wanted}×, {verdict})");
}
