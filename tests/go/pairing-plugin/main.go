// A plugin that uses every part of go-plugin's contract.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	pb "kilometers.example/tests/pairing"
)

type server struct {
	pb.UnimplementedPairingServer
	broker *plugin.GRPCBroker
}

func (s *server) Echo(_ context.Context, r *pb.Bytes) (*pb.Bytes, error) {
	return r, nil
}

func (s *server) Take(context.Context, *pb.Bytes) (*pb.Empty, error) {
	return &pb.Empty{}, nil
}

func (s *server) Stream(stream pb.Pairing_StreamServer) error {
	for {
		piece, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(piece); err != nil {
			return err
		}
	}
}

func (s *server) Print(_ context.Context, r *pb.Text) (*pb.Empty, error) {
	fmt.Println("out", r.Text)
	fmt.Fprintln(os.Stderr, "err", r.Text)
	return &pb.Empty{}, nil
}

func (s *server) CallHost(ctx context.Context, r *pb.Connection) (*pb.Text, error) {
	return pb.GreetPartner(ctx, s.broker, r.Id, "plugin")
}

func (s *server) Offer(context.Context, *pb.Empty) (*pb.Connection, error) {
	return &pb.Connection{Id: pb.OfferPartner(s.broker, "plugin")}, nil
}

type pairing struct{ plugin.NetRPCUnsupportedPlugin }

func (pairing) GRPCServer(broker *plugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterPairingServer(s, &server{broker: broker})
	return nil
}

func (pairing) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (interface{}, error) {
	return nil, nil
}

func main() {
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: pb.Handshake,
		Plugins:         map[string]plugin.Plugin{pb.Name: pairing{}},
		GRPCServer:      plugin.DefaultGRPCServer,
	})
}
