//! An MCP client: starts the server given as its arguments, calls a tool, and says what came back.
//!
//! `mcp-client [--bytes N] -- <server command>`

use rmcp::ServiceExt as _;
use rmcp::model::CallToolRequestParams;
use rmcp::transport::TokioChildProcess;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut text = "hello".to_owned();
    let mut server = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bytes" => text = "x".repeat(arguments.next().unwrap_or_default().parse()?),
            "--" => server.extend(arguments.by_ref()),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let [program, rest @ ..] = &server[..] else { return Err("no server command after --".into()) };
    let mut command = tokio::process::Command::new(program);
    command.args(rest);
    let client = ().serve(TokioChildProcess::new(command)?).await?;
    let tools = client.list_all_tools().await?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    println!("tools: {}", names.join(", "));
    let mut call = CallToolRequestParams::new("echo");
    call.arguments = serde_json::json!({ "text": text }).as_object().cloned();
    let answer = serde_json::to_string(&client.call_tool(call).await?)?;
    assert!(answer.contains(&text), "the answer is not what was asked for");
    println!("echo: {} bytes sent, {} bytes came back", text.len(), answer.len());
    client.cancel().await?;
    Ok(())
}
