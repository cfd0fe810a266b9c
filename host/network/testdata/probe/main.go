// Command probe is what tests run in a gVisor sandbox: the host asks it over
// TCP, one line a question, to try the network from in there.
//
//	tcp <addr> <milliseconds>          connect, then read a line
//	udp <addr> <milliseconds> <words>  send, then read one packet
//	udpfrom <src> <addr> <ms> <words>  the same from a source address
//	ping <ip> <milliseconds>           ICMP echo
//	hold <addr>                        connect and keep the connection
//	say <words>                        send on the kept connection, read a line
//	fetch <addr>                       read to the end, say how much and its SHA-256
//	addrs                              interface addresses
//
// Each answer is one line that begins with "ok" or "no".
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	l, err := net.Listen("tcp4", "0.0.0.0:7777")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go serve(c)
	}
}

func serve(c net.Conn) {
	defer c.Close()
	var held net.Conn
	var from *bufio.Reader
	for in := bufio.NewScanner(c); in.Scan(); {
		f := strings.Fields(in.Text())
		answer, err := "", error(nil)
		switch f[0] {
		case "tcp":
			answer, err = tcp(f[1], span(f[2]))
		case "udp":
			answer, err = udp("", f[1], span(f[2]), strings.Join(f[3:], " "))
		case "udpfrom":
			answer, err = udp(f[1], f[2], span(f[3]), strings.Join(f[4:], " "))
		case "ping":
			answer, err = ping(f[1], span(f[2]))
		case "hold":
			if held, err = net.DialTimeout("tcp", f[1], 2*time.Second); err == nil {
				from = bufio.NewReader(held)
				answer, err = from.ReadString('\n') // the greeting
			}
		case "fetch":
			answer, err = fetch(f[1])
		case "say":
			if held == nil {
				err = fmt.Errorf("nothing is held")
				break
			}
			held.SetDeadline(time.Now().Add(2 * time.Second))
			fmt.Fprintln(held, strings.Join(f[1:], " "))
			answer, err = from.ReadString('\n')
		case "addrs":
			var list []net.Addr
			list, err = net.InterfaceAddrs()
			answer = fmt.Sprint(list)
		default:
			err = fmt.Errorf("what is %q", f[0])
		}
		if err != nil {
			fmt.Fprintln(c, "no", err)
		} else {
			fmt.Fprintln(c, "ok", strings.TrimSpace(answer))
		}
	}
}

func span(s string) time.Duration {
	ms, _ := strconv.Atoi(s)
	return time.Duration(ms) * time.Millisecond
}

func tcp(addr string, wait time.Duration) (string, error) {
	c, err := net.DialTimeout("tcp", addr, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "connected", nil
	}
	return line, nil
}

func fetch(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	h := sha256.New()
	k, err := io.Copy(h, c)
	return fmt.Sprintf("%d %x", k, h.Sum(nil)), err
}

func udp(src, addr string, wait time.Duration, words string) (string, error) {
	d := net.Dialer{Timeout: wait}
	if src != "" {
		a, err := net.ResolveUDPAddr("udp", src)
		if err != nil {
			return "", err
		}
		d.LocalAddr = a
	}
	c, err := d.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(words)); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	k, err := c.Read(b)
	return string(b[:k]), err
}

func ping(ip string, wait time.Duration) (string, error) {
	c, err := net.DialTimeout("ip4:icmp", ip, wait)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	// Type 8, code 0, checksum, identifier 1, sequence 1.
	if _, err := c.Write([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	for {
		k, err := c.Read(b)
		if err != nil {
			return "", err
		}
		// Before it is connected, a raw socket hears everybody's ICMP.
		if k > 20 && net.IP(b[12:16]).String() == ip && b[20] == 0 {
			return "pong", nil
		}
	}
}
