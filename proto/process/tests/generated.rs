//! The generated code in the repository is what the .proto files give.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, name, committed) in [
        ("proto", "plugin", "src/generated/plugin.rs"),
        ("examples/greeter", "greeter", "examples/greeter/greeter.rs"),
    ] {
        let fresh = tempfile::tempdir().unwrap();
        let files = protox::compile([format!("{name}.proto")], [root.join(folder)]).unwrap();
        tonic_prost_build::configure().bytes(".plugin").out_dir(fresh.path()).compile_fds(files).unwrap();
        let fresh = std::fs::read_to_string(fresh.path().join(format!("{name}.rs"))).unwrap();
        let committed = root.join(committed);
        if std::env::var_os("KM_REGENERATE").is_some() {
            std::fs::write(&committed, &fresh).unwrap();
        }
        assert!(
            std::fs::read_to_string(&committed).unwrap_or_default() == fresh,
            "{} is not what the .proto gives: KM_REGENERATE=1 cargo test -p go-plugin --test generated",
            committed.display()
        );
    }
}
