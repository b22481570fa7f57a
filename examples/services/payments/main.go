// A sample service of Go's standard library alone. It listens on PORT, on all addresses: inside a container nobody else
// could reach it otherwise. On SIGTERM it finishes what it is answering.
//
// For /balance it asks the ledger, in whatever sandbox the request came from: see routing.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// What calls other services: requests that are made with an incoming request's context have its marks.
var client = &http.Client{Transport: passRouting{http.DefaultTransport}, Timeout: 10 * time.Second}

// What the accounts of the ledger add up to.
func balance(w http.ResponseWriter, r *http.Request) {
	var ledger struct {
		Sandbox  string
		Accounts []struct{ Balance int }
	}
	if err := get(r.Context(), address("LEDGER")+"/accounts", &ledger); err != nil {
		log.Printf("the ledger cannot be asked: %v", err)
		http.Error(w, "the ledger does not answer", http.StatusBadGateway)
		return
	}
	sum := 0
	for _, account := range ledger.Accounts {
		sum += account.Balance
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"balance": sum, "sandbox": os.Getenv("SDP_SANDBOX"), "ledger": ledger.Sandbox,
	})
}

func get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(into)
}

func main() {
	log.SetFlags(0)
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL.Path)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"service": "payments",
			"path":    r.URL.Path,
			"ref":     os.Getenv("SDP_REF"),
			"sandbox": os.Getenv("SDP_SANDBOX"),
		})
	})
	mux.HandleFunc("/balance", balance)
	server := &http.Server{Addr: ":" + os.Getenv("PORT"), Handler: keepRouting(mux), ReadHeaderTimeout: 10 * time.Second}
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-stopped.Done()
		within, cancel := context.WithTimeout(context.Background(), 8*time.Second)
		defer cancel()
		_ = server.Shutdown(within)
	}()
	log.Printf("payments listens on %s", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-done
}
