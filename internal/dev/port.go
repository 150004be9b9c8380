package dev

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// reservedPort is a free TCP port of 127.0.0.1 that no other process gets until release. It is bound, but nobody listens on
// it, so connections are refused.
type reservedPort struct {
	number int
	socket int
}

func reservePort() (reservedPort, error) {
	syscall.ForkLock.RLock() // no child may be forked before the socket is marked to close
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return reservedPort{}, os.NewSyscallError("socket", err)
	}
	port := reservedPort{socket: socket}
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		port.release()
		return reservedPort{}, os.NewSyscallError("bind", err)
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		port.release()
		return reservedPort{}, os.NewSyscallError("getsockname", err)
	}
	port.number = name.(*syscall.SockaddrInet4).Port
	return port, nil
}

// release lets another process listen on the port.
func (p reservedPort) release() { _ = syscall.Close(p.socket) }

// freeAddr returns addr, with a free port in place of port 0. It returns an error if the server will not be able to listen
// on addr.
func freeAddr(addr string) (string, error) {
	listener, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "", fmt.Errorf("%s is taken by another process: stop it, or set HTTP_ADDR to another address", addr)
	case err != nil:
		return "", fmt.Errorf("cannot listen on HTTP_ADDR=%s (%w): set it to another address", addr, err)
	}
	defer func() { _ = listener.Close() }()
	host, port, err := net.SplitHostPort(addr)
	if number, lookupErr := net.LookupPort("tcp", port); err != nil || lookupErr != nil || number != 0 {
		return addr, nil
	}
	_, port, err = net.SplitHostPort(listener.Addr().String())
	return net.JoinHostPort(host, port), err
}
