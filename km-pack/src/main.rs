//! `km-pack`: builds, stamps, signs and inspects plugin packages.

fn main() -> std::process::ExitCode {
    km_pack::commands::main()
}
