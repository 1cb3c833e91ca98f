package main

import (
	"testing"
	"time"
)

func TestALineSaysWhatPassed(t *testing.T) {
	now := time.UnixMilli(1_795_305_600_123)
	for text, expected := range map[string]string{
		`{"jsonrpc":"2.0","id":3,"method":"tools/call"}`: "00:00:00.123Z inbound  tools/call id=3 46 B",
		`{"id":"a","result":null}`:                       "00:00:00.123Z inbound  result id=\"a\" 24 B",
		`{"id":1,"error":{}}`:                            "00:00:00.123Z inbound  error id=1 19 B",
		`hello`:                                          "00:00:00.123Z inbound  invalid 5 B",
		`[1]`:                                            "00:00:00.123Z inbound  other 3 B",
		"{\"method\":\"a\\nb\\u001b[2J\"}":               "00:00:00.123Z inbound  a\ufffdb\ufffd[2J 26 B",
	} {
		if found := line(now, "inbound", []byte(text)); found != expected {
			t.Errorf("%q, not %q", found, expected)
		}
	}
}
