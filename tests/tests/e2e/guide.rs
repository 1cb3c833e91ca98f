//! The earlier product's guide, line by line: `docs/migration.md` has a place for each, in its order.

use km_tests::workspace;

/// What stands in the guide's blocks, tables and trees, section by section: the section's heading and its
/// lines. A command over several lines is one here.
const GUIDE: [(&str, &[&str]); 26] = [
    (
        "## Quick Start",
        &[
            "./scripts/automation/cleanup-and-test-plugins.sh",
            "go build -o km ./cmd/main.go",
            "cd examples/plugins/console-logger",
            "go build -o km-plugin-console-logger ./main.go",
            "mkdir -p ~/.km/plugins",
            "cp km-plugin-console-logger ~/.km/plugins/",
            "KM_API_KEY=test-key ./km plugins list",
            "KM_API_KEY=test-key ./km plugins status",
        ],
    ),
    (
        "## Architecture Overview",
        &[
            "Plugin Manager",
            "Plugin Discovery",
            "File System Scanner",
            "Plugin Authenticator",
            "Kilometers API",
            "Plugin Cache",
            "Encrypted Cache",
            "GRPC Client",
            "Plugin Process",
            "Console Logger",
            "API Logger",
            "Custom Plugins",
        ],
    ),
    (
        "## Directory Structure",
        &[
            "cmd/main.go",
            "internal/infrastructure/plugins/auth/",
            "internal/infrastructure/plugins/discovery/",
            "internal/infrastructure/plugins/grpc/",
            "internal/infrastructure/plugins/runtime/",
            "internal/infrastructure/plugins/proto/",
            "scripts/automation/cleanup-and-test-plugins.sh",
            "docs/PLUGIN_SYSTEM_AUTOMATION.md",
            "standalone/console-logger/",
            "standalone/api-logger/",
            "dist-standalone/",
            "build-standalone/",
            "build-standalone.sh",
            "~/.km/plugins/km-plugin-console-logger",
            "~/.km/plugins/km-plugin-api-logger",
            "~/.km/config/",
            "~/.km/cache/",
        ],
    ),
    (
        "### Plugin Creation",
        &[
            "Name()",
            "Version()",
            "RequiredTier()",
            "Authenticate(ctx, apiKey)",
            "authenticateWithAPI(apiKey)",
            "HandleMessage(ctx, data, direction, correlationID)",
            "errors.New(\"plugin not authenticated\")",
            "fmt.Printf(",
        ],
    ),
    (
        "### Plugin Building",
        &[
            "cd /path/to/kilometers-cli-plugins/standalone/console-logger",
            "go build -o km-plugin-console-logger ./main.go",
            "cd /path/to/kilometers-cli-plugins",
            "./build-standalone.sh --plugin=console-logger --customer=customer_123 --api-key=km_live_abc123 --tier=Free",
        ],
    ),
    (
        "### Plugin Installation",
        &[
            "mkdir -p ~/.km/plugins",
            "cp km-plugin-console-logger ~/.km/plugins/",
            "km plugins install km-plugin-console-logger-abc123.kmpkg",
            "km init --auto-provision-plugins",
        ],
    ),
    (
        "### Plugin Management Commands",
        &[
            "km plugins list",
            "KM_API_KEY=key km plugins list",
            "km plugins status",
            "KM_API_KEY=key km plugins status",
            "km plugins install <pkg>",
            "km plugins install plugin.kmpkg",
            "km plugins remove <name>",
            "km plugins remove console-logger",
            "km plugins refresh",
            "KM_API_KEY=key km plugins refresh",
        ],
    ),
    (
        "### Monitoring with Plugins",
        &[
            r#"km monitor --server -- echo '{"jsonrpc":"2.0","method":"test","id":1}'"#,
            r#"KM_API_KEY=your-key km monitor --server -- echo '{"jsonrpc":"2.0","method":"test","id":1}'"#,
            "KM_API_KEY=your-key km monitor --buffer-size 2MB --server -- npx -y @modelcontextprotocol/server-github",
        ],
    ),
    (
        "### Automated Testing Suite",
        &[
            "./scripts/automation/cleanup-and-test-plugins.sh",
            "./scripts/automation/cleanup-and-test-plugins.sh --phase cleanup",
            "./scripts/automation/cleanup-and-test-plugins.sh --phase build",
            "./scripts/automation/cleanup-and-test-plugins.sh --phase test",
        ],
    ),
    (
        "### Test Categories",
        &["Plugin Command Testing", "Monitoring Integration Testing", "Error Scenario Testing"],
    ),
    (
        "### Manual Testing Procedures",
        &[
            "./km plugins list",
            "KM_API_KEY=test-key ./km plugins list",
            "KM_API_KEY=test-key ./km plugins status",
            r#"KM_API_KEY=test-key ./km monitor --server -- echo '{"jsonrpc":"2.0","method":"initialize","params":{},"id":1}'"#,
            "KM_API_KEY=your-real-key ./km monitor --server -- npx -y @modelcontextprotocol/server-github",
            "./km plugins install nonexistent.kmpkg",
            "./km plugins remove nonexistent-plugin",
        ],
    ),
    (
        "## Plugin Authentication Model",
        &[
            "Digital Signature",
            "Customer Validation",
            "Embedded Credentials",
            "API Key Verification",
            "Runtime Authentication",
            "JWT Token Generation",
            "Secure Cache",
            "Periodic Re-auth",
            "5-minute Refresh",
            "Customer-Specific Builds",
            "Tier-Based Access",
            "Graceful Degradation",
        ],
    ),
    (
        "## Troubleshooting Guide",
        &[
            "ls -la ~/.km/plugins/",
            "file ~/.km/plugins/km-plugin-console-logger",
            "~/.km/plugins/km-plugin-console-logger --version",
            "echo $KM_API_KEY",
            "curl -H \"Authorization: Bearer $KM_API_KEY\" https://api.kilometers.ai/health",
            "rm -rf ~/.km/cache/",
            "KM_DEBUG=true KM_API_KEY=key ./km plugins list",
            "ls -la ~/.km/plugins/km-plugin-*",
            "file ~/.km/plugins/km-plugin-*",
            "export KM_DEBUG=true",
            "KM_API_KEY=key ./km plugins status --verbose",
            r#"KM_DEBUG=true KM_API_KEY=key ./km monitor --server -- echo '{"test": true}'"#,
        ],
    ),
    (
        "## Performance Considerations",
        &[
            "Process Isolation",
            "GRPC Communication",
            "Lazy Loading",
            "Resource Cleanup",
            "km-plugin-custom",
            "time KM_API_KEY=key ./km plugins list",
            r#"time KM_API_KEY=key ./km monitor --server -- echo '{"test": true}'"#,
        ],
    ),
    (
        "### Custom Plugin Development",
        &[
            "func (p *CustomPlugin) Name() string",
            "func (p *CustomPlugin) Version() string",
            "func (p *CustomPlugin) RequiredTier() string",
            "func (p *CustomPlugin) Authenticate(ctx context.Context, apiKey string) (*AuthResponse, error)",
            "func (p *CustomPlugin) HandleMessage(ctx context.Context, data []byte, direction string, correlationID string) error",
            "func (p *CustomPlugin) HandleError(ctx context.Context, err error) error",
            "func (p *CustomPlugin) Shutdown(ctx context.Context) error",
        ],
    ),
    (
        "### Plugin Package Creation",
        &[
            "cd kilometers-cli-plugins",
            "./build-standalone.sh --plugin=custom-plugin --customer=your_customer_id --api-key=your_api_key --tier=Pro --debug",
            "km plugins install dist-standalone/km-plugin-custom-plugin-hash.kmpkg",
        ],
    ),
    (
        "### Automated Testing Pipeline",
        &[
            "on: [push, pull_request]",
            "uses: actions/checkout@v4",
            "uses: actions/setup-go@v4",
            "go-version: '1.21'",
            "run: ./scripts/automation/cleanup-and-test-plugins.sh",
            "uses: actions/upload-artifact@v4",
            "path: logs/",
        ],
    ),
    (
        "### Pre-commit Hooks",
        &[
            ".git/hooks/pre-commit",
            "echo \"Running plugin system tests...\"",
            "./scripts/automation/cleanup-and-test-plugins.sh --quick",
            "if [ $? -ne 0 ]; then",
            "echo \"Plugin tests failed. Commit aborted.\"",
            "exit 1",
        ],
    ),
    (
        "## Migration Guide",
        &[
            "Remove Legacy Code",
            "Update Interfaces",
            "Add GRPC Support",
            "Update Authentication",
            "Test Integration",
            "CLI Interface",
            "Configuration",
            "API Integration",
        ],
    ),
    (
        "## Resources",
        &[
            "memory-bank/pluginArchitecture.md",
            "docs/plugins/PLUGIN_AUTHENTICATION.md",
            "scripts/plugin/README.md",
            "scripts/test/README.md",
            "https://github.com/kilometers-ai/kilometers-cli-plugins",
            "../kilometers-cli-plugins/standalone/console-logger/",
            "../kilometers-cli-plugins/standalone/api-logger/",
            "internal/infrastructure/plugins/proto/",
            "internal/infrastructure/plugins/runtime/",
            "./km plugins --help",
            "./km plugins list --help",
            "./km plugins status --help",
            "KM_DEBUG=true ./km plugins status",
            r#"KM_DEBUG=true ./km monitor --server -- echo '{"test": true}'"#,
            "./scripts/automation/cleanup-and-test-plugins.sh > automation-report.log 2>&1",
        ],
    ),
    // What the guide does not say, and its readers have all the same.
    ("### The configuration", &["~/.config/kilometers/config.json", "api_key", "batch_size", "debug"]),
    (
        "### The environment",
        &["KM_API_KEY", "KILOMETERS_API_KEY", "KM_API_ENDPOINT", "KILOMETERS_API_ENDPOINT", "KM_DEBUG"],
    ),
    ("### Installed plugins", &["unsigned", "km plugins allow", "./plugins/"]),
    (
        "### Plugins of the earlier interface",
        &[
            "Name",
            "Authenticate",
            "Initialize",
            "HandleMessage",
            "HandleError",
            "HandleStreamEvent",
            "Shutdown",
        ],
    ),
    (
        "### The API",
        &[
            "/api/plugins/authenticate",
            "/api/plugins/provision",
            "/api/subscription/status",
            "/api/user/features",
            "/api/events/batch",
            "/api/plugins/available",
            "/api/plugins/download/{id}",
            "/health",
        ],
    ),
    ("### The later product", &["KM_API_URL", "km_config.json"]),
];

#[test]
fn every_line_of_the_guide_has_its_place_in_its_order() {
    let page = std::fs::read_to_string(workspace().join("docs/migration.md")).unwrap();
    let mut rest = page.as_str();
    for (heading, lines) in GUIDE {
        let (_, section) = rest.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| {
            panic!("docs/migration.md has no `{heading}` after the one before");
        });
        rest = section;
        let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        let mut here = section;
        for line in lines {
            // A command is code, and whole: `km plugins list` within a longer one is not it.
            let begins = |c: char| c.is_ascii_lowercase() || c == '.';
            let is_command = line.contains(' ') && (line.starts_with(begins) || line.contains('='));
            let sought = if is_command { format!("`{line}`") } else { (*line).to_owned() };
            let found = here.find(&sought);
            let at =
                found.unwrap_or_else(|| panic!("docs/migration.md, {heading}: no `{line}` where it belongs"));
            here = &here[at..];
        }
    }
}
