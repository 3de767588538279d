/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The treaty with user space: the samples in the rings, byte for byte.
 *
 * microedr_agent/sensor/layout.py holds the same layouts; a test reads both from the built object's
 * BTF. Members are fixed-width and ordered largest first, so that no compiler pads; none is packed,
 * which would make clang store byte by byte. All values are of the initial namespaces.
 */
#pragma once

#include "core.h"

#define COMM_BYTES 16
#define TTY_BYTES 16
#define FILENAME_MAX_BYTES 512
#define PATH_MAX_BYTES 2048
#define ARGV_MAX_BYTES 4096
/* Each byte of the environment is a step of a loop the verifier follows; twice as many is too many. */
#define ENV_MAX_BYTES 2048

enum event_kind {
	EVENT_EXEC = 1,
	EVENT_FORK = 2,
	EVENT_EXIT = 3,
	EVENT_CONNECT = 4,
	EVENT_CONNECT_FAILED = 5,
	EVENT_ACCEPT = 6,
	EVENT_CLOSE = 7,
	EVENT_KINDS = 16,
};

/* event_header.flags: what was cut at its limit, or could not be read. */
enum event_flag {
	FLAG_ARGV_CUT = 1 << 0,
	FLAG_EXE_CUT = 1 << 1,
	FLAG_CWD_CUT = 1 << 2,
	FLAG_ENV_CUT = 1 << 3,
	FLAG_FILENAME_CUT = 1 << 4,
	FLAG_ARGV_LOST = 1 << 5,
	FLAG_ENV_LOST = 1 << 6,
};

/* When, what, and which process: for connections the one that opened or accepted them. */
struct event_header {
	u64 boot_ns;
	u64 start_boot_ns;
	u64 parent_start_boot_ns;
	u64 cgroup_id;
	u32 size; /* bytes of the whole sample */
	u32 pid;
	u32 ppid;
	u32 uid;
	u32 gid;
	u16 kind;
	u16 flags;
	char comm[COMM_BYTES];
};
_Static_assert(sizeof(struct event_header) == 72, "layout.py: HEADER");

/*
 * Followed by filename, exe, cwd, argv and names of the environment, each as long as its _bytes
 * says. Paths are components from leaf to root, each ended by NUL; argv and names end in NUL too.
 */
struct exec_event {
	struct event_header header;
	u64 exe_inode;
	u64 effective_capabilities;
	u32 euid;
	u32 login_uid;
	u32 session_id;
	u32 pid_ns;
	u32 mnt_ns;
	u32 net_ns;
	u32 exe_dev; /* the kernel's own encoding: major << 20 | minor */
	u32 exe_nlink;
	u16 exe_mode;
	u16 socket_stdio; /* bit n: descriptor n is a socket */
	u16 filename_bytes;
	u16 exe_bytes;
	u16 cwd_bytes;
	u16 argv_bytes;
	u16 env_bytes;
	u16 reserved;
	char tty[TTY_BYTES];
};
_Static_assert(sizeof(struct exec_event) == 152, "layout.py: EXEC");

/* The header is the creator's; the child's parent differs from it after clone(CLONE_PARENT). */
struct fork_event {
	struct event_header header;
	u64 child_start_boot_ns;
	u32 child_pid;
	u32 child_ppid;
};
_Static_assert(sizeof(struct fork_event) == 88, "layout.py: FORK");

struct exit_event {
	struct event_header header;
	u64 read_bytes;
	u64 written_bytes;
	u32 wait_status; /* as wait(2) gives it */
	u32 reserved;
};
_Static_assert(sizeof(struct exit_event) == 96, "layout.py: EXIT");

struct net_event {
	struct event_header header;
	u64 bytes_out;
	u64 bytes_in;
	u64 duration_ns;
	u8 local[16];  /* IPv4 in the first four bytes */
	u8 remote[16];
	u16 local_port; /* host order */
	u16 remote_port;
	u16 family;
	u8 protocol;
	u8 ingress;
};
_Static_assert(sizeof(struct net_event) == 136, "layout.py: NET");

/* Value of the one entry of map "ledger": seen = decoded in user space + dropped, per kind. */
struct ledger {
	u64 seen[EVENT_KINDS];
	u64 dropped[EVENT_KINDS];
};
_Static_assert(sizeof(struct ledger) == 256, "layout.py: LEDGER");
