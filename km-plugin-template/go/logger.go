package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What the plugin does. km calls these one at a time, and shows what they print on its stderr with the
// plugin's name in front.

// message is called for every message. direction is inbound (client to server) or outbound.
func message(direction string, data []byte) error {
	fmt.Println(line(time.Now(), direction, data))
	return nil
}

// tooLarge is called instead for a message of more than 4 MiB: direction, size, sha256, kind, and
// method and id where there are any.
func tooLarge(data map[string]string) error {
	fmt.Printf("%s %-8s %s %s B\n", clock(time.Now()), data["direction"], data["kind"], data["size"])
	return nil
}

// trouble is called for what is no message, such as the server's crash.
func trouble(kind, text string) error {
	fmt.Printf("%s %s: %s\n", clock(time.Now()), printable(kind), printable(text))
	return nil
}

// line is for example `12:00:00.123Z inbound  tools/call id=3 145 B`.
func line(now time.Time, direction string, data []byte) string {
	what, id := summary(data)
	if id != "" {
		id = " id=" + printable(id)
	}
	return fmt.Sprintf("%s %-8s %s%s %d B", clock(now), direction, printable(what), id, len(data))
}

func clock(now time.Time) string { return now.UTC().Format("15:04:05.000Z") }

// summary gives the method of a JSON-RPC request or notification, or what else the message is; and its
// id, as it is written.
func summary(data []byte) (what, id string) {
	var head struct {
		Method        *string
		ID            json.RawMessage
		Result, Error json.RawMessage
	}
	err := json.Unmarshal(data, &head)
	switch {
	case !json.Valid(data) || !utf8.Valid(data):
		return "invalid", ""
	case err != nil:
		return "other", ""
	case head.Method != nil:
		return *head.Method, string(head.ID)
	case head.Result != nil:
		return "result", string(head.ID)
	case head.Error != nil:
		return "error", string(head.ID)
	default:
		return "other", string(head.ID)
	}
}

// printable makes one short line of what client and server choose.
func printable(text string) string {
	if runes := []rune(text); len(runes) > 100 {
		text = string(runes[:100])
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
