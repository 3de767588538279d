/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP connections: opened, failed, accepted, closed with their bytes. Not here: UDP and DNS. */
#include "common.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define SOCK_DONE 1 /* bit of skc_flags: the peer's FIN was read */

enum tcp_state {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_CLOSE = 7,
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} ring_net SEC(".maps");

/*
 * Who opened or accepted a connection, by the address of its struct sock: states change in
 * softirq, in the context of any process. LRU: a host with more connections than entries loses the
 * close of the oldest, nothing else.
 */
struct owner {
	struct event_header header;
	u64 ingress;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct owner);
} owners SEC(".maps");

static __always_inline void net_event__fill(struct net_event *event, u16 kind,
					    const struct owner *owner, const struct sock *sk)
{
	__builtin_memset(event, 0, sizeof(*event));
	__builtin_memcpy(&event->header, &owner->header, sizeof(event->header));
	event->header.boot_ns = bpf_ktime_get_boot_ns();
	event->header.size = sizeof(*event);
	event->header.kind = kind;
	event->duration_ns = event->header.boot_ns - owner->header.boot_ns;
	event->ingress = owner->ingress;
	event->protocol = IPPROTO_TCP;
	event->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	/* skc_num is already zero when the state becomes CLOSE, inet_sport is not. */
	event->local_port = bpf_ntohs(BPF_CORE_READ((const struct inet_sock *)sk, inet_sport));
	event->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (event->family == AF_INET) {
		bpf_core_read(event->local, 4, &sk->__sk_common.skc_rcv_saddr);
		bpf_core_read(event->remote, 4, &sk->__sk_common.skc_daddr);
	} else {
		bpf_core_read(event->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
		bpf_core_read(event->remote, 16, &sk->__sk_common.skc_v6_daddr);
	}
}

/* Payload only: bytes_acked would count SYN and FIN, bytes_received counts the peer's FIN. */
static __always_inline void net_event__fill_bytes(struct net_event *event, const struct sock *sk)
{
	const struct tcp_sock *tcp = (const void *)sk;

	event->bytes_out = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	event->bytes_in = BPF_CORE_READ(tcp, bytes_received);
	if (event->bytes_in && (BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE) & 1)
		event->bytes_in--;
}

static __always_inline int sock__emit(const struct sock *sk, u16 kind, const struct owner *owner)
{
	struct net_event *event = bpf_ringbuf_reserve(&ring_net, sizeof(*event), 0);

	ledger__count(kind, !event);
	if (!event)
		return 1;
	net_event__fill(event, kind, owner, sk);
	if (kind == EVENT_CLOSE)
		net_event__fill_bytes(event, sk);
	bpf_ringbuf_submit(event, ring__submit_flags(&ring_net));
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, const struct sock *sk, int before, int after)
{
	u64 key = (u64)sk;
	struct owner *owner;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT) {
		/* connect(2), still in the caller's context. */
		struct owner caller = {};

		header__fill(&caller.header, 0, 0);
		bpf_map_update_elem(&owners, &key, &caller, BPF_ANY);
		return 0;
	}
	if (after != TCP_CLOSE && !(before == TCP_SYN_SENT && after == TCP_ESTABLISHED))
		return 0;
	owner = bpf_map_lookup_elem(&owners, &key);
	if (!owner)
		return 0; /* opened before the sensor, or closed before it was accepted */
	if (after == TCP_ESTABLISHED) {
		sock__emit(sk, EVENT_CONNECT, owner);
		return 0;
	}
	sock__emit(sk, before == TCP_SYN_SENT ? EVENT_CONNECT_FAILED : EVENT_CLOSE, owner);
	bpf_map_delete_elem(&owners, &key);
	return 0;
}

static __always_inline int accepted(const struct trace_event_raw_sys_exit *record)
{
	struct owner owner = {};
	struct file *file;
	struct socket *socket;
	struct sock *sk;
	u16 family;
	u64 key;

	if (record->ret < 0)
		return 0;
	file = current__file(record->ret);
	if (!file__is_socket(file))
		return 0; /* another thread closed it at once and reused the number */
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return 0;
	family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if ((family != AF_INET && family != AF_INET6) || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	header__fill(&owner.header, 0, 0);
	owner.ingress = 1;
	key = (u64)sk;
	bpf_map_update_elem(&owners, &key, &owner, BPF_ANY);
	sock__emit(sk, EVENT_ACCEPT, &owner);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_accept")
int sys_exit_accept(struct trace_event_raw_sys_exit *record)
{
	return accepted(record);
}

SEC("tracepoint/syscalls/sys_exit_accept4")
int sys_exit_accept4(struct trace_event_raw_sys_exit *record)
{
	return accepted(record);
}
