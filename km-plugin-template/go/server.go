package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	pb "kilometers.example/plugin/kilometersplugin"
)

// server speaks protocol 1 of Kilometers: it says what the plugin is, lets it run for whom it was
// built, and hands every message to logger.go.
type server struct {
	pb.UnimplementedKilometersPluginServer
	name, version, requiredTier string
	stamp                       *stamp
	tampered                    error
	open                        atomic.Bool
}

var errClosed = errors.New("not authenticated")

// kilometers is the server as go-plugin wants it.
type kilometers struct {
	plugin.NetRPCUnsupportedPlugin
	server *server
}

func (k kilometers) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterKilometersPluginServer(s, k.server)
	return nil
}

func (kilometers) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is a plugin, not a host")
}

func (s *server) GetName(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	return &pb.StringResponse{Value: s.name}, nil
}

func (s *server) GetVersion(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	return &pb.StringResponse{Value: s.version}, nil
}

func (s *server) GetRequiredTier(context.Context, *pb.Empty) (*pb.StringResponse, error) {
	return &pb.StringResponse{Value: s.requiredTier}, nil
}

// Authenticate is called before a session and again at every renewal: the last answer counts.
func (s *server) Authenticate(_ context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	tier, err := s.judge(r.ApiKey)
	s.open.Store(err == nil)
	if err != nil {
		return &pb.AuthenticateResponse{Error: err.Error(), AuthResponse: &pb.AuthResponse{}}, nil
	}
	return &pb.AuthenticateResponse{
		Success:      true,
		AuthResponse: &pb.AuthResponse{Authorized: true, UserTier: tier},
	}, nil
}

// judge gives the tier that the plugin works at. One that needs no more than Free runs on its stamp
// alone; one that needs more runs for the holder of the key it was built for.
func (s *server) judge(apiKey string) (string, error) {
	if s.tampered != nil {
		return "", s.tampered
	}
	tier, ownKey := "Free", false
	if s.stamp != nil {
		tier, ownKey = s.stamp.Tier, s.stamp.isKey(apiKey)
	}
	if tierRank(tier) < tierRank(s.requiredTier) {
		return "", fmt.Errorf("needs tier %s, has %s", s.requiredTier, tier)
	}
	if s.requiredTier != "Free" && !ownKey {
		return "", fmt.Errorf("needs tier %s: the API key it was built for is needed", s.requiredTier)
	}
	return tier, nil
}

func (s *server) Initialize(context.Context, *pb.InitializeRequest) (*pb.InitializeResponse, error) {
	success, text := s.verdict(func() error { return nil })
	return &pb.InitializeResponse{Success: success, Error: text}, nil
}

func (s *server) HandleMessage(_ context.Context, r *pb.HandleMessageRequest) (*pb.HandleMessageResponse, error) {
	success, text := s.verdict(func() error { return message(r.Direction, r.Data) })
	return &pb.HandleMessageResponse{Success: success, Error: text}, nil
}

// HandleError tells of what is no message, such as the server's crash.
func (s *server) HandleError(_ context.Context, r *pb.HandleErrorRequest) (*pb.HandleErrorResponse, error) {
	success, text := s.verdict(func() error { return trouble(r.ErrorType, r.ErrorMessage) })
	return &pb.HandleErrorResponse{Success: success, Error: text}, nil
}

// HandleStreamEvent tells of messages that protocol 1 is too small for, and of what later hosts add.
func (s *server) HandleStreamEvent(_ context.Context, r *pb.HandleStreamEventRequest) (*pb.HandleStreamEventResponse, error) {
	success, text := s.verdict(func() error {
		if r.GetEvent().GetType() != "message_too_large" {
			return nil
		}
		return tooLarge(r.Event.Data)
	})
	return &pb.HandleStreamEventResponse{Success: success, Error: text}, nil
}

// Shutdown ends the session; km then asks go-plugin to leave.
func (s *server) Shutdown(context.Context, *pb.ShutdownRequest) (*pb.ShutdownResponse, error) {
	return &pb.ShutdownResponse{Success: true}, nil
}

// verdict runs a handler, if the plugin may run, and says what every answer says of it.
func (s *server) verdict(handle func() error) (bool, string) {
	err := errClosed
	if s.open.Load() {
		err = handle()
	}
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}
