// go-logger: what it does with each message is in logger.go, what it is in km-plugin.toml. The rest is
// protocol 1 on go-plugin.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/go-plugin"
)

// about is what km-pack build reads, too: name, version and tier are said in one place.
//
//go:embed km-plugin.toml
var about string

// said gives the value of a line `key = "value"` of km-plugin.toml.
func said(key, otherwise string) string {
	for line := range strings.Lines(about) {
		name, value, _ := strings.Cut(line, "=")
		if value, quoted := unquote(strings.TrimSpace(value)); quoted && strings.TrimSpace(name) == key {
			return value
		}
	}
	return otherwise
}

func main() {
	name, version := said("name", "?"), said("version", "?")
	stamp, err := readStamp(name, version)
	if len(os.Args) > 1 && (os.Args[1] == "--version" || os.Args[1] == "-V") {
		fmt.Printf("km-plugin-%s %s\n%s\n", name, version, describeStamp(stamp, err))
		if err != nil {
			os.Exit(1)
		}
		return
	}
	served := &server{name: name, version: version, requiredTier: said("required_tier", "Free"), stamp: stamp, tampered: err}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion:  1,
			MagicCookieKey:   "KILOMETERS_PLUGIN",
			MagicCookieValue: "kilometers_monitoring_plugin",
		},
		Plugins:    plugin.PluginSet{"kilometers": kilometers{server: served}},
		GRPCServer: plugin.DefaultGRPCServer,
	})
}
