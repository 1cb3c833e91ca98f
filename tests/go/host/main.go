// A host as the earlier product was: go-plugin, protocol 1, in Go. It loads the plugin given to it
// and prints what each step of the transcript gave: host [-mtls] <plugin>
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	pb "kilometers.example/plugin/kilometersplugin"
)

type kilometers struct{ plugin.NetRPCUnsupportedPlugin }

func (kilometers) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (kilometers) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (interface{}, error) {
	return pb.NewKilometersPluginClient(c), nil
}

// What the plugin prints arrives from another goroutine.
type output struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.Write(p)
}

func (o *output) contains(text string) bool {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return strings.Contains(o.text.String(), text)
}

func check(step string, err error) {
	if err != nil {
		fmt.Println(step, "failed:", err)
		plugin.CleanupClients()
		os.Exit(1)
	}
}

func main() {
	mtls := flag.Bool("mtls", false, "")
	flag.Parse()
	printed := &output{}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion:  1,
			MagicCookieKey:   "KILOMETERS_PLUGIN",
			MagicCookieValue: "kilometers_monitoring_plugin",
		},
		Plugins:          map[string]plugin.Plugin{"kilometers": kilometers{}},
		Cmd:              exec.Command(flag.Arg(0)),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         *mtls,
		Managed:          true,
		SyncStdout:       printed,
		Logger:           hclog.NewNullLogger(),
	})
	protocol, err := client.Client()
	check("start", err)
	check("ping", protocol.Ping())
	raw, err := protocol.Dispense("kilometers")
	check("dispense", err)
	k := raw.(pb.KilometersPluginClient)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	name, err := k.GetName(ctx, &pb.Empty{})
	check("name", err)
	fmt.Println("name", name.Value)
	early, err := k.HandleMessage(ctx, &pb.HandleMessageRequest{Data: []byte("{}"), Direction: "inbound"})
	check("early message", err)
	fmt.Println("before authentication", early.Success, early.Error)
	auth, err := k.Authenticate(ctx, &pb.AuthenticateRequest{})
	check("authenticate", err)
	fmt.Println("authorized", auth.AuthResponse.GetAuthorized(), auth.AuthResponse.GetUserTier())
	initialized, err := k.Initialize(ctx, &pb.InitializeRequest{Config: &pb.PluginConfig{}})
	check("initialize", err)
	fmt.Println("initialized", initialized.Success)
	request := []byte(`{"jsonrpc":"2.0","id":1,"method":"from/go"}`)
	handled, err := k.HandleMessage(ctx, &pb.HandleMessageRequest{Data: request, Direction: "inbound", CorrelationId: "1"})
	check("message", err)
	fmt.Println("handled", handled.Success)
	large, err := k.HandleMessage(ctx, &pb.HandleMessageRequest{Data: make([]byte, 3900*1024), Direction: "outbound", CorrelationId: "2"})
	check("large message", err)
	fmt.Println("large", large.Success)

	deadline := time.Now().Add(10 * time.Second)
	for !printed.contains("from/go id=1") {
		if time.Now().After(deadline) {
			check("stdio", fmt.Errorf("what the plugin printed did not arrive"))
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Println("stdio arrived")
	begun := time.Now()
	client.Kill()
	fmt.Println("gone", client.Exited(), time.Since(begun) < 2*time.Second)
}
