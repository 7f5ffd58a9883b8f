// S3 is an S3-compatible server in memory (github.com/rclone/gofakes3) that verifies the signature of every request.
//
//	s3 BUCKET ACCESS-KEY SECRET-KEY
//
// Prints the address it listens on, and serves until its standard input ends.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/rclone/gofakes3"
	"github.com/rclone/gofakes3/s3mem"
)

func main() {
	backend := s3mem.New()
	if err := backend.CreateBucket(context.Background(), os.Args[1]); err != nil {
		panic(err)
	}
	faker := gofakes3.New(backend, gofakes3.WithV4Auth(map[string]string{os.Args[2]: os.Args[3]}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	go func() { _ = http.Serve(listener, faker.Server()) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}
