// A host that uses every part of go-plugin's contract.
//
//	pairing-host [-mtls] [-mux] transcript <plugin>
//	pairing-host [-mtls] [-mux] bench <calls> <plugin>
//
// A transcript has a line for each step; a bench is one line of JSON.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	pb "kilometers.example/tests/pairing"
)

const patience = 10 * time.Second

type pairing struct{ plugin.NetRPCUnsupportedPlugin }

func (pairing) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error { return nil }

func (pairing) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, c *grpc.ClientConn) (interface{}, error) {
	return &dispensed{pb.NewPairingClient(c), broker}, nil
}

type dispensed struct {
	pb.PairingClient
	broker *plugin.GRPCBroker
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

func (o *output) await(line string) error {
	for deadline := time.Now().Add(5 * time.Second); !o.contains(line + "\n"); {
		if time.Now().After(deadline) {
			return fmt.Errorf("%q did not arrive", line)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// A plugin with the two ends of what it prints.
type host struct {
	cmd      *exec.Cmd
	client   *plugin.Client
	protocol plugin.ClientProtocol
	*dispensed
	stdout, stderr output
}

func start(path string, mtls, mux bool) (*host, error) {
	h := &host{cmd: exec.Command(path)}
	// All it gets of this environment where the host's is not passed on: where sockets go.
	h.cmd.Env = []string{"TMPDIR=" + os.TempDir()}
	config := &plugin.ClientConfig{
		HandshakeConfig:  pb.Handshake,
		Plugins:          map[string]plugin.Plugin{pb.Name: pairing{}},
		Cmd:              h.cmd,
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         mtls,
		Managed:          true,
		StartTimeout:     patience,
		SyncStdout:       &h.stdout,
		SyncStderr:       &h.stderr,
		Stderr:           &h.stderr,
		Logger:           hclog.NewNullLogger(),
	}
	configure(config, mux)
	h.client = plugin.NewClient(config)
	var err error
	if h.protocol, err = h.client.Client(); err != nil {
		h.client.Kill()
		return nil, err
	}
	raw, err := h.protocol.Dispense(pb.Name)
	if err != nil {
		h.client.Kill()
		return nil, err
	}
	h.dispensed = raw.(*dispensed)
	return h, nil
}

// On one line, without the code.
func short(err error) string {
	return strings.Join(strings.Fields(status.Convert(err).Message()), " ")
}

// The time is kept here too, as not every call of go-plugin takes a deadline.
func step(name string, run func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lines := make(chan string, 1)
	go func() {
		result, err := run(ctx)
		if err != nil {
			result = " failed: " + short(err)
		}
		lines <- name + result
	}()
	select {
	case line := <-lines:
		fmt.Println(line)
	case <-ctx.Done():
		fmt.Println(name, "failed:", ctx.Err())
	}
}

func transcript(path string, mtls, mux bool) {
	h, err := start(path, mtls, mux)
	if err != nil {
		fmt.Println("start failed:", short(err))
		os.Exit(1)
	}
	fmt.Println("start ok")
	step("ping", func(context.Context) (string, error) {
		return " ok", h.protocol.Ping()
	})
	for _, size := range []int{1024, 3900000} {
		step(fmt.Sprint("echo ", size), func(ctx context.Context) (string, error) {
			sent := bytes.Repeat([]byte("kilometers"), size/10+1)[:size]
			r, err := h.Echo(ctx, &pb.Bytes{Data: sent})
			if err == nil && !bytes.Equal(r.Data, sent) {
				err = fmt.Errorf("not equal")
			}
			return " ok", err
		})
	}
	step("stdout", func(ctx context.Context) (string, error) {
		if _, err := h.Print(ctx, &pb.Text{Text: "hello 1"}); err != nil {
			return "", err
		}
		return " ok", h.stdout.await("out hello 1")
	})
	step("stderr", func(context.Context) (string, error) {
		return " ok", h.stderr.await("err hello 1")
	})
	step("plugin calls host", func(ctx context.Context) (string, error) {
		r, err := h.CallHost(ctx, &pb.Connection{Id: pb.OfferPartner(h.broker, "host")})
		return ": " + r.GetText(), err
	})
	step("host calls plugin", func(ctx context.Context) (string, error) {
		offered, err := h.Offer(ctx, &pb.Empty{})
		if err != nil {
			return "", err
		}
		r, err := pb.GreetPartner(ctx, h.broker, offered.Id, "host")
		return ": " + r.GetText(), err
	})
	step("gone", func(context.Context) (string, error) {
		begun := time.Now()
		h.client.Kill()
		inTime := time.Since(begun) < 2*time.Second
		return fmt.Sprint(" ", inTime && h.client.Exited()), nil
	})
	// Where Kill hangs it must not outlive this host; mostly it is long gone.
	h.cmd.Process.Kill()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "pairing-host:", err)
	plugin.CleanupClients()
	os.Exit(1)
}

func main() {
	mtls := flag.Bool("mtls", false, "")
	mux := flag.Bool("mux", false, "")
	flag.Parse()
	switch {
	case flag.NArg() == 2 && flag.Arg(0) == "transcript":
		transcript(flag.Arg(1), *mtls, *mux)
	case flag.NArg() == 3 && flag.Arg(0) == "bench":
		calls, err := strconv.Atoi(flag.Arg(1))
		if err == nil {
			err = bench(calls, flag.Arg(2), *mtls, *mux)
		}
		if err != nil {
			fail(err)
		}
	default:
		fail(fmt.Errorf("[-mtls] [-mux] transcript <plugin> | bench <calls> <plugin>"))
	}
}
