/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few kernel types the programs read, with only the members they use.
 *
 * Member offsets here mean nothing: preserve_access_index makes clang record every access, and
 * libbpf rewrites it at load for the running kernel's own layout (CO-RE). That is why no generated
 * vmlinux.h is needed. Not here: what is sent to user space, see events.h.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
typedef _Bool bool;

/* libbpf's headers ask for these names. */
typedef u8 __u8;
typedef u16 __u16;
typedef u32 __u32;
typedef u64 __u64;
typedef s32 __s32;
typedef s64 __s64;
typedef u16 __be16;
typedef u32 __be32;
typedef u32 __wsum;

enum {
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_MMAPABLE = 1 << 10,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
};

#define CORE __attribute__((preserve_access_index))

typedef struct {
	u32 val;
} kuid_t;

typedef struct {
	int counter;
} atomic_t;

struct super_block {
	u32 s_dev;
} CORE;

struct inode {
	u16 i_mode;
	unsigned long i_ino;
	u32 i_nlink;
	struct super_block *i_sb;
} CORE;

struct qstr {
	const unsigned char *name;
} CORE;

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
} CORE;

struct vfsmount {
	struct dentry *mnt_root;
} CORE;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} CORE;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
} CORE;

struct fdtable {
	u32 max_fds;
	struct file **fd;
} CORE;

struct files_struct {
	struct fdtable *fdt;
} CORE;

struct fs_struct {
	struct path pwd;
} CORE;

struct mm_struct {
	unsigned long arg_start, arg_end, env_start, env_end;
	struct file *exe_file;
} CORE;

/* u64 since Linux 6.3, two u32 before: the same eight bytes on little-endian machines. */
typedef struct {
	u64 val;
} kernel_cap_t;

struct cred {
	kuid_t euid;
	kernel_cap_t cap_effective;
} CORE;

struct ns_common {
	u32 inum;
} CORE;

struct pid_namespace {
	struct ns_common ns;
} CORE;

struct mnt_namespace {
	struct ns_common ns;
} CORE;

struct net {
	struct ns_common ns;
} CORE;

struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
} CORE;

struct upid {
	struct pid_namespace *ns;
} CORE;

struct pid {
	u32 level;
	struct upid numbers[1];
} CORE;

struct tty_struct {
	char name[64];
} CORE;

struct task_io_accounting {
	u64 rchar, wchar;
} CORE;

struct signal_struct {
	atomic_t live;
	u32 flags;
	int group_exit_code;
	struct tty_struct *tty;
	struct task_io_accounting ioac;
} CORE;

struct task_struct {
	int pid, tgid;
	int exit_code;
	struct task_struct *real_parent, *group_leader;
	u64 start_boottime;
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	const struct cred *cred;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct task_io_accounting ioac;
	kuid_t loginuid;
	u32 sessionid;
} CORE;

struct linux_binprm {
	const char *filename;
} CORE;

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
} CORE;

struct sock_common {
	u32 skc_daddr, skc_rcv_saddr;
	u16 skc_dport, skc_family;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
	unsigned long skc_flags;
} CORE;

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
} CORE;

struct inet_sock {
	u16 inet_sport;
} CORE;

struct tcp_sock {
	u64 bytes_sent, bytes_retrans, bytes_received;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

/* The head of every syscall-exit tracepoint record. */
struct trace_event_raw_sys_exit {
	long id;
	long ret;
} CORE;
