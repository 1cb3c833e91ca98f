//! `install.sh` and `.github/release.sh`: a release as it is published, and whatever may be wrong with one.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use km_tests::{Answer, Finished, Mirror, TestEnvironment, binary, path, workspace};

/// A signed release of the freshly built programs, made once, as `docs/releasing.md` says.
struct Release {
    folder: tempfile::TempDir,
}

const TARGET: &str =
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { "x86_64-unknown-linux-gnu" };

fn archive() -> String {
    format!("km-{}-{TARGET}.tar.gz", env!("CARGO_PKG_VERSION"))
}

/// Runs a script in a folder; it must succeed.
fn sh(folder: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn release_sh() -> PathBuf {
    workspace().join(".github/release.sh")
}

fn release() -> &'static Release {
    static RELEASE: OnceLock<Release> = OnceLock::new();
    RELEASE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let [km, km_pack] = ["km", "km-pack"].map(|name| path(&binary(name)).to_owned());
        let script = format!(
            "mkdir bins; strip -o bins/km {km}; strip -o bins/km-pack {km_pack}
             openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out pub.pem
             {release} archive --bins bins --target {TARGET} --out release
             {release} sign --key key.pem --out release",
            release = path(&release_sh()),
        );
        sh(folder.path(), &script);
        Release { folder }
    })
}

impl Release {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its files in a folder of the test's own; those that are not changed are shared.
    fn copy(&self, environment: &TestEnvironment) -> PathBuf {
        let copy = environment.path("release");
        std::fs::create_dir_all(&copy).unwrap();
        for entry in std::fs::read_dir(self.path("release")).unwrap().flatten() {
            let place = copy.join(entry.file_name());
            let _ = std::fs::remove_file(&place);
            std::fs::hard_link(entry.path(), &place)
                .or_else(|_| std::fs::copy(entry.path(), &place).map(drop))
                .unwrap();
        }
        copy
    }

    fn sign(&self, folder: &Path) {
        let key = path(&self.path("key.pem")).to_owned();
        sh(
            folder,
            &format!(
                "openssl pkeyutl -sign -inkey {key} -rawin -in SHA256SUMS -out new; mv new SHA256SUMS.sig"
            ),
        );
    }
}

/// Writes a file that may be shared with the release: anew.
fn replace(place: &Path, bytes: impl AsRef<[u8]>) {
    let _ = std::fs::remove_file(place);
    std::fs::write(place, bytes).unwrap();
}

/// The shells that are here; in CI all must be.
fn shells() -> Vec<Vec<&'static str>> {
    let all = [vec!["dash"], vec!["bash", "--posix"], vec!["bash"], vec!["busybox", "sh"]];
    let is_here = |shell: &Vec<&str>| {
        let tried = Command::new(shell[0]).args(&shell[1..]).args(["-c", "true"]).output();
        let here = tried.is_ok_and(|output| output.status.success());
        assert!(here || std::env::var_os("CI").is_none(), "{shell:?} is missing");
        here
    };
    all.into_iter().filter(is_here).collect()
}

struct Installing<'a> {
    environment: &'a TestEnvironment,
    shell: Vec<&'static str>,
    script: PathBuf,
    search: Option<PathBuf>,
}

impl<'a> Installing<'a> {
    fn in_environment(environment: &'a TestEnvironment) -> Self {
        Self { environment, shell: vec!["sh"], script: release().path("release/install.sh"), search: None }
    }

    fn shell(self, shell: Vec<&'static str>) -> Self {
        Self { shell, ..self }
    }

    /// Only these programs are there.
    fn search(self, search: PathBuf) -> Self {
        Self { search: Some(search), ..self }
    }

    /// `curl … | sh -s -- …`
    fn run(&self, arguments: &[&str]) -> Finished {
        let script = std::fs::File::open(&self.script).unwrap();
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).args(["-s", "--"]).args(arguments);
        command.env_clear().env("HOME", self.environment.path("home"));
        let search = self.search.as_ref().map(|path| path.as_os_str().to_owned());
        command.env("PATH", search.unwrap_or_else(|| std::env::var_os("PATH").unwrap()));
        command.current_dir(self.environment.path("")).stdin(Stdio::from(script));
        command.output().unwrap().into()
    }

    /// It is refused, says so in these words, and leaves nothing, not even a folder.
    fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let before = everything(&self.environment.path("home"));
        let finished = self.run(arguments).expect(code);
        let said = &finished.stderr;
        assert!(said.contains("error: ") && said.contains("\nhelp: ") && said.contains(words), "{said}");
        assert_eq!(finished.text(), "");
        assert_eq!(everything(&self.environment.path("home")), before);
    }

    fn bin(&self) -> PathBuf {
        self.environment.path("home/.local/bin")
    }
}

/// All paths under a folder, with the contents of files.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        found.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
    }
    found.sort();
    found
}

fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with links to the programs that the script uses, but for some.
fn search_without(environment: &TestEnvironment, missing: &[&str]) -> PathBuf {
    let folder = environment.path("programs");
    std::fs::create_dir_all(&folder).unwrap();
    let needed =
        "sh cat chmod cp curl cut dirname grep gzip ln mkdir mktemp mv openssl rm rmdir tail tar uname wget";
    for name in needed.split(' ').filter(|name| !missing.contains(name)) {
        let found = sh(environment.path("").as_path(), &format!("command -v {name}"));
        let _ = symlink(found.trim(), folder.join(name));
    }
    folder
}

/// Puts a program before the others.
fn put_program(folder: &Path, name: &str, text: &str) {
    replace(&folder.join(name), text);
    std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_release_is_installed_by_every_shell_and_runs() {
    for shell in shells() {
        let environment = TestEnvironment::empty();
        let installing = Installing::in_environment(&environment).shell(shell);
        let from = release().path("release");
        let said = installing.run(&["--from", path(&from)]).expect(0).text();
        let version = env!("CARGO_PKG_VERSION");
        assert!(
            said.contains(&format!("installed {version} into {}: km km-pack", path(&installing.bin()))),
            "{said}"
        );
        assert!(said.contains("is not in your PATH") && said.contains("export PATH="), "{said}");
        for program in ["km", "km-pack"] {
            assert!(version_of(&installing.bin().join(program)).starts_with(&format!("{program} {version}")));
            let share = environment.path("home/.local/share");
            let page = std::fs::read_to_string(share.join(format!("man/man1/{program}.1"))).unwrap();
            assert!(page.contains(".TH"), "{page}");
            assert!(share.join(format!("bash-completion/completions/{program}")).is_file());
            assert!(share.join(format!("zsh/site-functions/_{program}")).is_file());
            assert!(share.join(format!("fish/vendor_completions.d/{program}.fish")).is_file());
        }
        let left = std::fs::read_dir(installing.bin()).unwrap().count();
        assert_eq!(left, 2, "only the two programs are in their folder");
        // Once more is no error.
        let again = installing.run(&["--from", path(&from)]).expect(0).text();
        assert!(again.contains(&format!("(before: {version})")), "{again}");
    }
}

#[test]
fn only_km_and_another_place_can_be_chosen() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let from = release().path("release");
    let place = environment.path("a place");
    let said = installing.run(&["--from", path(&from), "--to", "a place/", "--only", "km"]).expect(0).text();
    assert!(said.contains("no man pages and completions: ") && place.join("km").is_file(), "{said}");
    assert!(!place.join("km-pack").exists() && !environment.path("home").exists());
    installing.run(&["--from", path(&from), "--to", path(&place.join("bin")), "--only", "km"]).expect(0);
    let pages: Vec<_> = std::fs::read_dir(place.join("share/man/man1")).unwrap().flatten().collect();
    assert!(pages.len() > 20 && pages.iter().all(|page| !path(&page.path()).contains("km-pack")));
    let help = installing.run(&["--help"]).expect(0).text();
    for option in ["--version", "--from", "--key", "--to", "--only"] {
        assert!(help.contains(option), "{help}");
    }
    for wrong in [
        &["--unknown"][..],
        &["--to"],
        &["--only", "sh"],
        &["--version", "1;2"],
        &["--from", "http://a"],
        &["--from", "http://localhost:x@a"],
    ] {
        installing.refused(wrong, 2, "");
    }
}

#[test]
fn what_is_not_as_it_was_signed_is_refused() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let place = release().copy(&environment);
    let from = ["--from", path(&place)];
    let archive = place.join(archive());
    let bytes = std::fs::read(&archive).unwrap();

    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    replace(&archive, changed);
    installing.refused(&from, 3, "is not what was signed");
    replace(&archive, &bytes[..bytes.len() - 1]);
    installing.refused(&from, 3, "is not what was signed");
    replace(&archive, "");
    installing.refused(&from, 3, "is not what was signed");

    let place = release().copy(&environment);
    let sums = place.join("SHA256SUMS");
    let text = std::fs::read_to_string(&sums).unwrap();
    replace(&sums, format!("{text}\n"));
    installing.refused(&from, 3, "does not hold");
    replace(&sums, text.replacen('0', "1", 1));
    installing.refused(&from, 3, "does not hold");
    replace(&sums, "");
    installing.refused(&from, 3, "does not hold");
    std::fs::remove_file(&sums).unwrap();
    installing.refused(&from, 6, "has no SHA256SUMS");

    let place = release().copy(&environment);
    let signature = place.join("SHA256SUMS.sig");
    let good = std::fs::read(&signature).unwrap();
    for bad in [&good[..63], &[0; 64], &[], &[&good[..], b"x"].concat()] {
        replace(&signature, bad);
        installing.refused(&from, 3, "does not hold");
    }
    std::fs::remove_file(&signature).unwrap();
    installing.refused(&from, 6, "has no SHA256SUMS.sig");
    // Another key's, who signs the same names.
    sh(
        &place,
        "openssl genpkey -algorithm ed25519 -out other.pem; openssl pkey -in other.pem -pubout -out other.pub.pem
         openssl pkeyutl -sign -inkey other.pem -rawin -in SHA256SUMS -out SHA256SUMS.sig",
    );
    installing.refused(&from, 3, "does not hold");
    // Whoever trusts that key may say so; and then no other.
    let key = path(&place.join("other.pub.pem")).to_owned();
    installing.run(&[from[0], from[1], "--key", &key, "--to", "other"]).expect(0);
    installing.refused(&["--from", path(&release().path("release")), "--key", &key], 3, "does not hold");
}

#[test]
fn a_signed_archive_that_leads_elsewhere_is_not_unpacked() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let place = release().copy(&environment);
    let from = ["--from", path(&place)];
    let (name, folder) = (archive(), archive().replace(".tar.gz", ""));
    let cases = [
        ("mkdir -p F; echo a >F/km; tar -P --transform 's|^F/km|F/../../km|' -czf A F", "leads elsewhere"),
        ("mkdir -p F; echo a >F/km; tar -P --transform 's|^F/km|/tmp/km|' -czf A F", "leads elsewhere"),
        ("mkdir -p other; echo a >other/km; tar -czf A other", "leads elsewhere"),
        ("mkdir -p F; ln -s /bin/sh F/km; tar -czf A F", "links or devices"),
        ("mkdir -p F; cp ../release/install.sh F/a; ln F/a F/km; tar -czf A F", "links or devices"),
        ("mkdir -p F; echo a >F/other; tar -czf A F", "has no km"),
        ("mkdir -p F; printf '#!/bin/sh\\necho km 9.9.9\\n' >F/km; tar -czf A F", "another version"),
        ("mkdir -p F; printf '\\001' >F/km; tar -czf A F", "does not run here"),
        ("echo no archive >A", "no archive that tar can read"),
    ];
    for (script, words) in cases {
        let work = environment.path("work");
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir(&work).unwrap();
        sh(&work, &script.replace('F', &folder).replace('A', &name));
        replace(&place.join(&name), std::fs::read(work.join(&name)).unwrap());
        let _ = std::fs::remove_file(place.join("SHA256SUMS.new"));
        sh(&place, &format!("sha256sum {name} >SHA256SUMS.new; mv SHA256SUMS.new SHA256SUMS"));
        release().sign(&place);
        let code = if words.contains("run here") { 1 } else { 3 };
        installing.refused(&from, code, words);
    }
    // Signed, but for others, or for two.
    for (sums, code, words) in [
        ("0  km-1.0.0-riscv64gc-unknown-linux-gnu.tar.gz\n".to_owned(), 6, "has no archive for"),
        (format!("0  km-1.0.0-{TARGET}.tar.gz\n0  km-1.0.1-{TARGET}.tar.gz\n"), 3, "two archives"),
        (format!("0  km-../../x-{TARGET}.tar.gz\n"), 3, "a name that no archive has"),
    ] {
        replace(&place.join("SHA256SUMS"), sums);
        release().sign(&place);
        installing.refused(&from, code, words);
    }
}

#[test]
fn a_script_that_was_cut_does_nothing() {
    let whole = std::fs::read(release().path("release/install.sh")).unwrap();
    let body = whole.len() - 1;
    let cuts = (0..body).step_by(211).chain(body - 45..body);
    let environment = TestEnvironment::empty();
    for length in cuts {
        replace(&environment.path("cut.sh"), &whole[..length]);
        for shell in shells() {
            let script = environment.path("cut.sh");
            let installing = Installing { script, ..Installing::in_environment(&environment).shell(shell) };
            installing.run(&["--from", path(&release().path("release"))]);
            assert!(!environment.path("home").exists(), "cut after {length} bytes");
        }
    }
}

#[test]
fn over_http_and_what_servers_do() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let mirror = Mirror::of(&release().path("release"));
    let url = mirror.url();
    let from = ["--from", url.as_str()];
    for tool in ["curl", "wget"] {
        let other = if tool == "curl" { "wget" } else { "curl" };
        let programs = search_without(&environment, &[other]);
        let _ = std::fs::remove_file(programs.join(other));
        let installing = Installing::in_environment(&environment).search(programs);
        mirror.on("/SHA256SUMS.sig", Answer::Missing);
        installing.refused(&from, 6, "404");
        mirror.on("/SHA256SUMS.sig", Answer::Redirect(format!("{url}/{}", archive())));
        installing.refused(&from, 3, "longer than such a file can be");
        mirror.on("/SHA256SUMS", Answer::Endless);
        installing.refused(&from, 3, "longer than such a file can be");
        mirror.behave();
        mirror.on("/km-", Answer::Bytes(b"something else".to_vec()));
        installing.refused(&from, 3, "is not what was signed");
        mirror.behave();
        installing.run(&[from[0], from[1], "--to", tool]).expect(0);
        assert!(version_of(&environment.path(tool).join("km")).starts_with("km "), "{tool}");
    }
    // curl alone: wget tries again for a long time.
    mirror.on("/km-", Answer::Cut(100_000));
    installing.refused(&from, 5, "cannot get");
    mirror.behave();
    // Whoever listens there no longer.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    installing.refused(&["--from", &format!("http://{gone}")], 5, "cannot get");
    let nothing = search_without(&environment, &["curl", "wget"]);
    for tool in ["curl", "wget"] {
        let _ = std::fs::remove_file(nothing.join(tool));
    }
    Installing::in_environment(&environment).search(nothing).refused(&from, 9, "neither curl nor wget");
}

#[test]
fn what_this_machine_lacks_is_said() {
    let environment = TestEnvironment::empty();
    let from = ["--from", path(&release().path("release"))].map(str::to_owned);
    let from = [from[0].as_str(), from[1].as_str()];
    let programs = search_without(&environment, &["openssl", "tar"]);
    let installing = Installing::in_environment(&environment).search(programs.clone());
    installing.refused(&from, 9, "openssl is missing");
    // As OpenSSL 1.1.1 answers, which has no -rawin.
    let openssl = sh(&environment.path(""), "command -v openssl");
    let old = format!(
        "#!/bin/sh\ncase $1:$2 in\nversion:) echo OpenSSL 1.1.1w;;\n*:-help) {0} \"$@\" 2>&1 | grep -v rawin;;\n*) exec {0} \"$@\";;\nesac\n",
        openssl.trim()
    );
    put_program(&programs, "openssl", &old);
    installing.refused(&from, 9, "tar is missing");
    search_without(&environment, &["openssl"]);
    installing.refused(&from, 9, "OpenSSL 1.1.1w cannot verify ed25519");
    for (os, machine, words) in [
        ("Darwin", "arm64", "there is no km for Darwin"),
        ("MINGW64_NT", "x86_64", "there is no km for MINGW64_NT"),
        ("Linux", "riscv64", "no km for riscv64"),
    ] {
        let text = format!("#!/bin/sh\ncase $1 in -s) echo {os};; -m) echo {machine};; esac\n");
        put_program(&programs, "uname", &text);
        installing.refused(&from, 1, words);
    }
}

#[test]
fn the_copy_in_the_repository_wants_a_key() {
    let environment = TestEnvironment::empty();
    let script = workspace().join("install.sh");
    let installing = Installing { script, ..Installing::in_environment(&environment) };
    let from = release().path("release");
    installing.refused(&["--from", path(&from)], 3, "carries no release key");
    let key = path(&release().path("key.pem")).to_owned();
    installing.refused(&["--from", path(&from), "--key", &key], 3, "is no ed25519 public key");
    installing.refused(
        &["--from", path(&from), "--key", "nowhere.pem"],
        6,
        "cannot read the key nowhere.pem",
    );
    let key = path(&release().path("pub.pem")).to_owned();
    installing.run(&["--from", path(&from), "--key", &key]).expect(0);
}

/// The real `km`, with another version in it.
fn km_of_version(version: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(release().path("bins/km")).unwrap();
    let (own, other) = (format!("{} (", env!("CARGO_PKG_VERSION")), format!("{version} ("));
    assert_eq!(own.len(), other.len());
    let places: Vec<usize> =
        (0..bytes.len() - own.len()).filter(|at| bytes[*at..].starts_with(own.as_bytes())).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + own.len()].copy_from_slice(other.as_bytes());
    }
    bytes
}

#[test]
fn a_newer_version_stays_unless_the_older_is_named() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let from = release().path("release");
    std::fs::create_dir_all(installing.bin()).unwrap();
    let km = installing.bin().join("km");
    let put = |version: &str| {
        let text = km_of_version(version);
        replace(&km, text);
        std::fs::set_permissions(&km, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(version_of(&km).starts_with(&format!("km {version} (")));
    };
    for newer in ["0.1.1", "0.2.0", "1.0.0"] {
        put(newer);
        installing.refused(&["--from", path(&from)], 7, &format!("is version {newer}, newer than 0.1.0"));
    }
    installing.run(&["--from", path(&from), "--version", "v0.1.0"]).expect(0);
    assert!(version_of(&km).starts_with("km 0.1.0 ("));
    put("0.0.9");
    let said = installing.run(&["--from", path(&from)]).expect(0).text();
    assert!(said.contains("(before: 0.0.9)") && version_of(&km).starts_with("km 0.1.0 ("), "{said}");
    installing.refused(&["--from", path(&from), "--version", "0.3.0"], 6, "has version 0.1.0, not 0.3.0");
}

#[test]
fn a_folder_that_takes_nothing_and_a_full_disk_are_said() {
    let environment = TestEnvironment::empty();
    let installing = Installing::in_environment(&environment);
    let from = release().path("release");
    installing.refused(&["--from", path(&from), "--to", "/dev/null/bin"], 9, "cannot make the folder");
    installing.refused(&["--from", path(&from), "--to", "/proc"], 9, "cannot write to /proc");
    // Something that is no program is in the way: what was put before comes back.
    std::fs::create_dir_all(installing.bin().join("km-pack")).unwrap();
    installing.refused(&["--from", path(&from)], 9, "km-pack is a folder");
    // A disk of its own, in a mount namespace that ends with the shell.
    let script = format!(
        "mkdir -p disk && mount -t tmpfs -o size=\"$1\" none disk || exit 77
         sh {} --from {} --to disk/bin; status=$?; ls -A disk >&2; exit $status",
        path(&release().path("release/install.sh")),
        path(&from)
    );
    let archive = std::fs::metadata(from.join(archive())).unwrap().len();
    for size in [8 * 1024, archive / 2, archive + archive / 2] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", &script, "sh", &size.to_string()]);
        let finished: Finished = command.current_dir(environment.path("")).output().unwrap().into();
        if finished.code == 77 || finished.stderr.starts_with("unshare:") {
            assert!(std::env::var_os("CI").is_none(), "no disk can be mounted here: {}", finished.stderr);
            return;
        }
        let finished = finished.expect(9);
        assert!(finished.stderr.contains("is the disk full?"), "{}", finished.stderr);
        assert!(finished.stderr.trim_end().ends_with('?'), "something was left: {}", finished.stderr);
    }
}

#[test]
fn the_same_commit_and_programs_give_the_same_archive() {
    let environment = TestEnvironment::empty();
    let script = format!(
        "{} archive --bins {} --target {TARGET} --out again; umask 077; TZ=Asia/Tokyo {0} archive --bins {1} --target {TARGET} --out once-more",
        path(&release_sh()),
        path(&release().path("bins")),
    );
    sh(&environment.path(""), &script);
    let first = std::fs::read(release().path("release").join(archive())).unwrap();
    for folder in ["again", "once-more"] {
        assert!(std::fs::read(environment.path(folder).join(archive())).unwrap() == first, "{folder}");
    }
    // What the page tells an auditor.
    let check = "sha256sum --check --strict SHA256SUMS
        openssl pkeyutl -verify -pubin -inkey ../pub.pem -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig";
    let said = sh(&release().path("release"), check);
    assert!(said.contains("install.sh: OK") && said.contains("Signature Verified Successfully"), "{said}");
}

#[test]
fn a_release_that_is_not_whole_is_not_made() {
    let environment = TestEnvironment::empty();
    let refused = |arguments: &str, words: &str| {
        let script = format!("{} {arguments}", path(&release_sh()));
        let output =
            Command::new("sh").args(["-c", &script]).current_dir(environment.path("")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words) && said.contains("help: "), "{said}");
    };
    let bins = path(&release().path("bins")).to_owned();
    refused(&format!("archive --bins {bins} --tag v9.9.9"), "the tag v9.9.9 is not v");
    refused("archive --bins .", "has no km");
    refused("sign", "no signing key");
    refused("sign --key nowhere.pem", "there is no");
    std::fs::create_dir(environment.path("empty")).unwrap();
    let key = path(&release().path("key.pem")).to_owned();
    refused(&format!("sign --key {key} --out empty"), "has no archives");
    replace(&environment.path(&format!("empty/{}", archive())), "");
    sh(&environment.path(""), "openssl genpkey -algorithm x25519 -out x25519.pem");
    refused("sign --key x25519.pem --out empty", "is no ed25519 key");
    assert!(!environment.path("empty/SHA256SUMS.sig").exists());
}

#[test]
fn the_scripts_are_clean() {
    let Ok(output) = Command::new("shellcheck").arg("--version").output() else {
        assert!(std::env::var_os("CI").is_none(), "shellcheck is missing: apt-get install shellcheck");
        return;
    };
    assert!(output.status.success());
    sh(
        &workspace(),
        "shellcheck install.sh .github/release.sh .githooks/pre-commit tests/tour.sh tests/tools/install.sh .ci/run",
    );
}
