// A plugin as the earlier product's were: go-plugin, protocol 1, in Go.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	pb "kilometers.example/plugin/kilometersplugin"
)

type server struct {
	pb.UnimplementedKilometersPluginServer
	authenticated atomic.Bool
	messages      int
}

const refused = "not authenticated"

func (s *server) GetName(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), "km-plugin-")
	return &pb.StringResponse{Value: name}, nil
}

func (s *server) GetVersion(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	return &pb.StringResponse{Value: "1.0.0"}, nil
}

func (s *server) GetRequiredTier(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	return &pb.StringResponse{Value: "Free"}, nil
}

func (s *server) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	s.authenticated.Store(true)
	return &pb.AuthenticateResponse{
		Success:      true,
		AuthResponse: &pb.AuthResponse{Authorized: true, UserTier: "Free"},
	}, nil
}

func (s *server) Initialize(context.Context, *pb.InitializeRequest) (*pb.InitializeResponse, error) {
	if !s.authenticated.Load() {
		return &pb.InitializeResponse{Error: refused}, nil
	}
	return &pb.InitializeResponse{Success: true}, nil
}

func (s *server) Shutdown(context.Context, *pb.ShutdownRequest) (*pb.ShutdownResponse, error) {
	fmt.Println("messages", s.messages)
	return &pb.ShutdownResponse{Success: true}, nil
}

func (s *server) HandleMessage(_ context.Context, r *pb.HandleMessageRequest) (*pb.HandleMessageResponse, error) {
	if !s.authenticated.Load() {
		return &pb.HandleMessageResponse{Error: refused}, nil
	}
	s.messages++
	fmt.Println("message", r.CorrelationId, r.Direction, len(r.Data))
	return &pb.HandleMessageResponse{Success: true}, nil
}

func (s *server) HandleError(context.Context, *pb.HandleErrorRequest) (*pb.HandleErrorResponse, error) {
	if !s.authenticated.Load() {
		return &pb.HandleErrorResponse{Error: refused}, nil
	}
	return &pb.HandleErrorResponse{Success: true}, nil
}

func (s *server) HandleStreamEvent(_ context.Context, r *pb.HandleStreamEventRequest) (*pb.HandleStreamEventResponse, error) {
	if !s.authenticated.Load() {
		return &pb.HandleStreamEventResponse{Error: refused}, nil
	}
	s.messages++
	fmt.Println("event", r.Event.Type, r.Event.Data["size"])
	return &pb.HandleStreamEventResponse{Success: true}, nil
}

type kilometers struct{ plugin.NetRPCUnsupportedPlugin }

func (kilometers) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterKilometersPluginServer(s, &server{})
	return nil
}

func (kilometers) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (interface{}, error) {
	return nil, nil
}

func main() {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion:  1,
			MagicCookieKey:   "KILOMETERS_PLUGIN",
			MagicCookieValue: "kilometers_monitoring_plugin",
		},
		Plugins:    map[string]plugin.Plugin{"kilometers": kilometers{}},
		GRPCServer: plugin.DefaultGRPCServer,
	})
}
