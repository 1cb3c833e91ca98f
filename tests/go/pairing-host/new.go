//go:build !old

package main

import "github.com/hashicorp/go-plugin"

func configure(config *plugin.ClientConfig, mux bool) {
	config.GRPCBrokerMultiplex = mux
	config.SkipHostEnv = true
}
