package main

import (
	"context"
	"net/http"
	"os"
	"strings"
)

// What marks a request as a sandbox's. Passed on to whatever is called because of it, the whole chain stays in the sandbox.
var marks = []string{"baggage", "sdp-routing-key"}

type marksKey struct{}

// keepRouting keeps an incoming request's marks in its context.
func keepRouting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept := http.Header{}
		for _, name := range marks {
			for _, value := range r.Header.Values(name) {
				kept.Add(name, value)
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), marksKey{}, kept)))
	})
}

// passRouting puts the marks in the context of an outgoing request onto it.
type passRouting struct{ next http.RoundTripper }

func (p passRouting) RoundTrip(r *http.Request) (*http.Response, error) {
	if kept, ok := r.Context().Value(marksKey{}).(http.Header); ok {
		r = r.Clone(r.Context())
		for name, values := range kept {
			if r.Header.Get(name) == "" {
				r.Header[name] = values
			}
		}
	}
	return p.next.RoundTrip(r)
}

// address of another service: in a sandbox what SDP says, elsewhere (in the baseline, at home) what LEDGER_URL says.
func address(service string) string {
	if route := os.Getenv("SDP_ROUTE_" + service); route != "" {
		return strings.TrimSuffix(route, "/")
	}
	return strings.TrimSuffix(os.Getenv(service+"_URL"), "/")
}
