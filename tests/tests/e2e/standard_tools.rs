//! A package checked by tools that are not ours, as `docs/package-format.md` shows it.

use std::process::Command;

use km_tests::{TestEnvironment, packages, path};

/// Runs a shell script with the tools of the system; what is missing fails the test.
fn shell(environment: &TestEnvironment, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-eu", "-c", script])
        .env("package", &packages().package)
        .env("public_key", &packages().public_key)
        .env("private_key", &packages().private_key)
        .current_dir(environment.path("."))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The script of the page, on a real package.
fn script_of_the_page() -> String {
    let page = std::fs::read_to_string(km_tests::workspace().join("docs/package-format.md")).unwrap();
    let script = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let (first, rest) = script.split_once('\n').unwrap();
    assert!(first.starts_with("p="));
    format!("p=$package; cp \"$public_key\" release.pub.pem\n{rest}")
}

#[test]
fn openssl_dd_and_zstd_verify_a_package_as_the_page_says() {
    let environment = TestEnvironment::empty();
    let text = shell(&environment, &script_of_the_page());
    assert!(text.contains("Signature Verified Successfully"), "{text}");
    let tar_sha256 = packages().document["tar_sha256"].as_str().unwrap();
    assert!(text.contains(tar_sha256), "{text}");
    let manifest = std::fs::read_to_string(environment.path("manifest")).unwrap();
    assert!(manifest.starts_with("format = \"kmpkg/1\"\n") && manifest.contains(tar_sha256));
    let id = shell(
        &environment,
        "openssl pkey -pubin -in release.pub.pem -outform DER | sha256sum | head -c 16; echo; od -An -tx1 keyid | tr -d ' \\n'",
    );
    let (from_key, from_package) = id.trim().split_once('\n').unwrap();
    assert_eq!(from_key, from_package);
}

#[test]
fn tar_and_zstd_read_a_package() {
    let environment = TestEnvironment::empty();
    let listing = shell(
        &environment,
        "zstd -t \"$package\"; tar --zstd -tvf \"$package\"; zstd -dc \"$package\" | tar xf -; ./km-plugin-console-logger --version",
    );
    assert!(listing.contains("-rwxr-xr-x 0/0") && listing.contains("customer_123"), "{listing}");
}

#[test]
fn openssl_reads_our_keys_and_we_read_openssl_s() {
    let environment = TestEnvironment::empty();
    let public = shell(&environment, "openssl pkey -in \"$private_key\" -pubout");
    assert_eq!(public, std::fs::read_to_string(&packages().public_key).unwrap());
    shell(
        &environment,
        "openssl genpkey -algorithm ed25519 -out made.key.pem; openssl pkey -in made.key.pem -pubout -out made.pub.pem",
    );
    environment.km(["trust", "add", path(&environment.path("made.pub.pem"))]).expect(0);
    shell(&environment, "openssl genpkey -algorithm x25519 | openssl pkey -pubout -out x25519.pub.pem");
    environment.km(["trust", "add", path(&environment.path("x25519.pub.pem"))]).expect(3);
}
