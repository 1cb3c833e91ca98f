// Package pairing is what hosts and plugins of different make say to each other.
package pairing

import (
	"context"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// Name is what a host dispenses.
const Name = "pairing"

var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "PAIRING_PLUGIN",
	MagicCookieValue: "pairing",
}

type partner struct {
	UnimplementedPartnerServer
	side string
}

func (p partner) Greet(_ context.Context, whom *Text) (*Text, error) {
	return &Text{Text: p.side + " greets " + whom.Text}, nil
}

// OfferPartner offers a connection over which this side can be greeted.
func OfferPartner(broker *plugin.GRPCBroker, side string) uint32 {
	id := broker.NextId()
	go broker.AcceptAndServe(id, func(options []grpc.ServerOption) *grpc.Server {
		s := grpc.NewServer(options...)
		RegisterPartnerServer(s, partner{side: side})
		return s
	})
	return id
}

// GreetPartner greets over a connection that the other side offered.
func GreetPartner(ctx context.Context, broker *plugin.GRPCBroker, id uint32, side string) (*Text, error) {
	conn, err := broker.Dial(id)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return NewPartnerClient(conn).Greet(ctx, &Text{Text: side})
}
