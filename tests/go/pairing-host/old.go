//go:build old

package main

import (
	"fmt"

	"github.com/hashicorp/go-plugin"
)

func configure(_ *plugin.ClientConfig, mux bool) {
	if mux {
		fail(fmt.Errorf("this go-plugin is too old to multiplex"))
	}
}
