/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What both objects do alike: name the process, count, read descriptors. */
#pragma once

#include "events.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define S_IFMT 0170000
#define S_IFSOCK 0140000

/*
 * User space maps this map instead of asking by system call: before Linux 5.19 a process without
 * CAP_BPF may not look up, and the sensor keeps no capability.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ledger);
} ledger SEC(".maps");

static __always_inline void ledger__count(u16 kind, bool dropped)
{
	u32 zero = 0;
	struct ledger *entry = bpf_map_lookup_elem(&ledger, &zero);

	if (!entry || kind >= EVENT_KINDS)
		return;
	__sync_fetch_and_add(&entry->seen[kind], 1);
	if (dropped)
		__sync_fetch_and_add(&entry->dropped[kind], 1);
}

/*
 * How to submit to a ring. The reader looks by timer, which costs a tenth of being woken for each event;
 * it is woken only when the ring is a quarter full, so that a storm finds it awake.
 */
static __always_inline u64 ring__submit_flags(void *ring)
{
	u64 size = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE);

	if (bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA) > size / 4)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* Fill the header for the current process. Its start and parent are the thread group's. */
static __always_inline void header__fill(struct event_header *header, u16 kind, u32 size)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 id = bpf_get_current_pid_tgid();
	u64 owner = bpf_get_current_uid_gid();

	header->boot_ns = bpf_ktime_get_boot_ns();
	header->start_boot_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	header->parent_start_boot_ns =
		BPF_CORE_READ(task, group_leader, real_parent, group_leader, start_boottime);
	header->cgroup_id = bpf_get_current_cgroup_id();
	header->size = size;
	header->pid = id >> 32;
	header->ppid = BPF_CORE_READ(task, group_leader, real_parent, tgid);
	header->uid = owner;
	header->gid = owner >> 32;
	header->kind = kind;
	header->flags = 0;
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

/* The open file behind a descriptor of the current process, or NULL. */
static __always_inline struct file *current__file(u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
	return file;
}

static __always_inline bool file__is_socket(struct file *file)
{
	return file && (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) == S_IFSOCK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
