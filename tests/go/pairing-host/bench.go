package main

import (
	"context"
	"fmt"
	"time"

	pb "kilometers.example/tests/pairing"
)

func bench(calls int, path string, mtls, mux bool) error {
	request := &pb.Bytes{Data: make([]byte, 1024)}
	begun := time.Now()
	h, err := start(path, mtls, mux)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := h.Take(ctx, request); err != nil {
		return err
	}
	started := time.Since(begun)

	begun = time.Now()
	for i := 0; i < calls; i++ {
		// Without a deadline, which would cost a timer.
		if _, err := h.Take(context.Background(), request); err != nil {
			return err
		}
	}
	took := time.Since(begun)
	h.client.Kill()

	fmt.Printf("{\"start_ms\": %.3f, \"calls_per_s\": %.1f}\n", 1000*started.Seconds(), float64(calls)/took.Seconds())
	return nil
}
