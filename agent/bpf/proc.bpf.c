/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes: exec with everything about the new image, fork, exit. Not here: sockets (net.bpf.c). */
#include "common.h"

#include <bpf/bpf_tracing.h>

#define SIGNAL_GROUP_EXIT 0x4
#define PATH_COMPONENTS 64
#define NAME_BYTES 256
#define OFFSET_MASK 0x3fff

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} ring_proc SEC(".maps");

/*
 * Where an exec sample is put together: it is longer than the stack of 512 bytes. Cursors live
 * here and not in registers, so that the verifier forgets their values and finds that the rounds
 * of a loop are alike; with known values it follows each combination and gives up.
 */
struct scratch {
	u8 sample[OFFSET_MASK + 1 + ARGV_MAX_BYTES];
	u8 env[ENV_MAX_BYTES];
	struct dentry *dentry;
	struct mount *mount;
	u32 end; /* bytes of sample in use */
	u32 name; /* where the name being copied begins */
	u32 in_name;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct process_key {
	u64 start_boot_ns;
	u64 pid;
};

/* Processes whose exit was sent: two last threads can both find that no thread is left. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_key);
	__type(value, u8);
} exited SEC(".maps");

static __always_inline u8 *scratch__cursor(struct scratch *scratch)
{
	return scratch->sample + (scratch->end & OFFSET_MASK);
}

/*
 * Append the components of a path, leaf first, crossing mounts up to the root of the mount
 * namespace. Returns 0, or 1 when it is longer than the limits.
 */
static __noinline int scratch__add_path(struct scratch *scratch, const struct path *path)
{
	u32 start = scratch->end;
	long copied;
	int i;

	scratch->dentry = BPF_CORE_READ(path, dentry);
	scratch->mount = (void *)BPF_CORE_READ(path, mnt) - bpf_core_field_offset(struct mount, mnt);
	for (i = 0; i < PATH_COMPONENTS; i++) {
		struct dentry *dentry = scratch->dentry;
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		struct mount *mount = scratch->mount;

		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			struct mount *below = BPF_CORE_READ(mount, mnt_parent);

			if (below == mount)
				return 0;
			scratch->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			scratch->mount = below;
			continue;
		}
		copied = bpf_probe_read_kernel_str(scratch__cursor(scratch), NAME_BYTES,
						   BPF_CORE_READ(dentry, d_name.name));
		if (copied <= 0)
			return 1;
		scratch->end += copied;
		/* Files without a directory, such as memfds, are their own parent. */
		if (dentry == parent)
			return 0;
		if (scratch->end - start > PATH_MAX_BYTES - NAME_BYTES)
			return 1;
		scratch->dentry = parent;
	}
	return 1;
}

static __always_inline int scratch__add_user(struct scratch *scratch, u64 from, u32 size)
{
	/* clang knows the bound from the caller and would drop the check the verifier needs. */
	barrier_var(size);
	if (size > ARGV_MAX_BYTES)
		return 1;
	if (bpf_probe_read_user(scratch__cursor(scratch), size, (void *)from))
		return 1;
	scratch->end += size;
	return 0;
}

/*
 * Append the names of NAME=value strings in scratch->env, each ended by NUL. Values end here: they
 * hold secrets. So does a string without '=', which could be one.
 */
static __noinline int scratch__add_env_names(struct scratch *scratch, u64 from, u32 size)
{
	u32 i;

	barrier_var(size);
	if (size > ENV_MAX_BYTES)
		return 1;
	if (bpf_probe_read_user(scratch->env, size, (void *)from))
		return 1;
	scratch->name = scratch->end;
	scratch->in_name = 1;
	for (i = 0; i < ENV_MAX_BYTES; i++) {
		u8 letter;

		if (i >= size)
			break;
		letter = scratch->env[i];
		if (!letter) {
			scratch->end = scratch->name;
			scratch->in_name = 1;
		} else if (scratch->in_name) {
			if (letter == '=') {
				letter = 0;
				scratch->in_name = 0;
			}
			*scratch__cursor(scratch) = letter;
			scratch->end++;
			if (!letter)
				scratch->name = scratch->end;
		}
	}
	scratch->end = scratch->name;
	return 0;
}

static __always_inline u32 task__pid_ns(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	/* The index is not known when CO-RE rewrites the access, so step over elements by hand. */
	struct upid *active = (void *)&pid->numbers[0] + level * bpf_core_type_size(struct upid);

	return BPF_CORE_READ(active, ns, ns.inum);
}

static __always_inline u16 current__socket_stdio(void)
{
	u16 sockets = 0;

	if (file__is_socket(current__file(0)))
		sockets |= 1;
	if (file__is_socket(current__file(1)))
		sockets |= 2;
	if (file__is_socket(current__file(2)))
		sockets |= 4;
	return sockets;
}

static __always_inline void exec_event__fill(struct exec_event *event, struct task_struct *task)
{
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	struct tty_struct *tty = BPF_CORE_READ(task, signal, tty);
	const struct cred *cred = BPF_CORE_READ(task, cred);

	event->exe_inode = BPF_CORE_READ(inode, i_ino);
	bpf_core_read(&event->effective_capabilities, sizeof(u64), &cred->cap_effective);
	event->euid = BPF_CORE_READ(cred, euid.val);
	event->login_uid = -1;
	if (bpf_core_field_exists(task->loginuid))
		event->login_uid = BPF_CORE_READ(task, loginuid.val);
	event->session_id = -1;
	if (bpf_core_field_exists(task->sessionid))
		event->session_id = BPF_CORE_READ(task, sessionid);
	event->pid_ns = task__pid_ns(task);
	event->mnt_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	event->net_ns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	event->exe_dev = BPF_CORE_READ(inode, i_sb, s_dev);
	event->exe_nlink = BPF_CORE_READ(inode, i_nlink);
	event->exe_mode = BPF_CORE_READ(inode, i_mode);
	event->socket_stdio = current__socket_stdio();
	event->reserved = 0;
	__builtin_memset(event->tty, 0, sizeof(event->tty));
	if (tty)
		bpf_core_read_str(event->tty, sizeof(event->tty), &tty->name);
}

static __always_inline u16 exec_event__add_strings(struct exec_event *event, struct scratch *scratch,
						   struct task_struct *task, const char *filename)
{
	struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	u64 start, size;
	u16 flags = 0;
	u32 before;
	long copied;

	scratch->end = sizeof(*event);
	copied = bpf_probe_read_kernel_str(scratch__cursor(scratch), FILENAME_MAX_BYTES, filename);
	event->filename_bytes = copied < 0 ? 0 : copied;
	if (copied == FILENAME_MAX_BYTES)
		flags |= FLAG_FILENAME_CUT;
	scratch->end += event->filename_bytes;

	before = scratch->end;
	if (scratch__add_path(scratch, &exe->f_path))
		flags |= FLAG_EXE_CUT;
	event->exe_bytes = scratch->end - before;

	before = scratch->end;
	if (scratch__add_path(scratch, &fs->pwd))
		flags |= FLAG_CWD_CUT;
	event->cwd_bytes = scratch->end - before;

	before = scratch->end;
	start = BPF_CORE_READ(task, mm, arg_start);
	size = BPF_CORE_READ(task, mm, arg_end) - start;
	if (size > ARGV_MAX_BYTES)
		flags |= FLAG_ARGV_CUT;
	if (scratch__add_user(scratch, start, size > ARGV_MAX_BYTES ? ARGV_MAX_BYTES : size))
		flags |= FLAG_ARGV_LOST;
	event->argv_bytes = scratch->end - before;

	before = scratch->end;
	start = BPF_CORE_READ(task, mm, env_start);
	size = BPF_CORE_READ(task, mm, env_end) - start;
	if (size > ENV_MAX_BYTES)
		flags |= FLAG_ENV_CUT;
	if (scratch__add_env_names(scratch, start, size > ENV_MAX_BYTES ? ENV_MAX_BYTES : size))
		flags |= FLAG_ENV_LOST;
	event->env_bytes = scratch->end - before;
	return flags;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, struct linux_binprm *binprm)
{
	u32 zero = 0;
	struct scratch *scratch = bpf_map_lookup_elem(&scratches, &zero);
	struct exec_event *event;
	u32 size;

	if (!scratch)
		return 0;
	event = (void *)scratch->sample;
	header__fill(&event->header, EVENT_EXEC, 0);
	exec_event__fill(event, task);
	event->header.flags =
		exec_event__add_strings(event, scratch, task, BPF_CORE_READ(binprm, filename));
	size = scratch->end & OFFSET_MASK;
	event->header.size = size;
	ledger__count(EVENT_EXEC,
		      bpf_ringbuf_output(&ring_proc, event, size, ring__submit_flags(&ring_proc)) != 0);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct fork_event *event;

	if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0; /* a thread */
	event = bpf_ringbuf_reserve(&ring_proc, sizeof(*event), 0);
	ledger__count(EVENT_FORK, !event);
	if (!event)
		return 0;
	header__fill(&event->header, EVENT_FORK, sizeof(*event));
	event->child_start_boot_ns = BPF_CORE_READ(child, start_boottime);
	event->child_pid = BPF_CORE_READ(child, tgid);
	event->child_ppid = BPF_CORE_READ(child, real_parent, tgid);
	bpf_ringbuf_submit(event, ring__submit_flags(&ring_proc));
	return 0;
}

/* Bytes through read-like and write-like calls: of threads already reaped, the leader and the last. */
static __always_inline void exit_event__fill_io(struct exit_event *event, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	event->read_bytes = 0;
	event->written_bytes = 0;
	if (!bpf_core_field_exists(task->ioac.rchar))
		return; /* a kernel without CONFIG_TASK_XACCT */
	event->read_bytes = BPF_CORE_READ(task, signal, ioac.rchar) + BPF_CORE_READ(task, ioac.rchar);
	event->written_bytes = BPF_CORE_READ(task, signal, ioac.wchar) + BPF_CORE_READ(task, ioac.wchar);
	if (leader != task) {
		event->read_bytes += BPF_CORE_READ(leader, ioac.rchar);
		event->written_bytes += BPF_CORE_READ(leader, ioac.wchar);
	}
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	struct process_key key = {};
	struct exit_event *event;
	u8 seen = 1;

	if (BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0; /* other threads go on */
	key.start_boot_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	key.pid = BPF_CORE_READ(task, tgid);
	if (bpf_map_update_elem(&exited, &key, &seen, BPF_NOEXIST))
		return 0;
	event = bpf_ringbuf_reserve(&ring_proc, sizeof(*event), 0);
	ledger__count(EVENT_EXIT, !event);
	if (!event)
		return 0;
	header__fill(&event->header, EVENT_EXIT, sizeof(*event));
	exit_event__fill_io(event, task);
	/* What wait(2) will report, see wait_task_zombie() in the kernel. */
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		event->wait_status = BPF_CORE_READ(task, signal, group_exit_code);
	else
		event->wait_status = BPF_CORE_READ(task, group_leader, exit_code);
	event->reserved = 0;
	bpf_ringbuf_submit(event, ring__submit_flags(&ring_proc));
	return 0;
}
