"""Tags of the contract's fields, by message: what stands before each value on the wire.

Numbers are those of proto/microedr/v1/event.proto; a test compares what is written with the generated code.
"""

from microedr_agent.sensor.wire import bytes_tag, fixed64_tag, number_tag

# EventBatch
BATCH_EVENT = bytes_tag(1)

# AgentEvent
SEQNO = number_tag(2)
TIMESTAMP_UNIX_NS = 3 << 3 | 1
TIMESTAMP_BOOT_NS = 15 << 3 | 1
HOST_ID = bytes_tag(4)
HOSTNAME = bytes_tag(6)
OS = bytes_tag(7)
PROCESS_UID = bytes_tag(9)
HOST = bytes_tag(10)
AGENT = bytes_tag(11)
CONTAINER = bytes_tag(12)
PROCESS = bytes_tag(13)
TRUNCATED = bytes_tag(14)
PROC_EXEC = bytes_tag(20)
PROC_FORK = bytes_tag(21)
PROC_EXIT = bytes_tag(22)
NET_CONN = bytes_tag(23)
HEARTBEAT = bytes_tag(33)
LOSS = bytes_tag(34)

# Container
CONTAINER_CGROUP_ID = number_tag(7)

# Process
P_PID = number_tag(1)
P_PPID = number_tag(2)
P_START_UNIX_NS = fixed64_tag(3)
P_START_BOOT_NS = fixed64_tag(4)
P_EXE = bytes_tag(5)
P_COMM = bytes_tag(6)
P_CMDLINE = bytes_tag(7)
P_CWD = bytes_tag(8)
P_USER = bytes_tag(9)
P_UID = number_tag(10)
P_GID = number_tag(11)
P_EUID = number_tag(12)
P_LOGIN_UID = number_tag(13)
P_PARENT_UID = bytes_tag(14)
P_PARENT_EXE = bytes_tag(17)
P_PARENT_CMDLINE = bytes_tag(18)

# ProcExec
X_ARGV = bytes_tag(1)
X_ENV_KEYS = bytes_tag(2)
X_PARENT_EXE = bytes_tag(3)
X_TTY = bytes_tag(4)
X_SESSION_ID = number_tag(5)
X_FILENAME = bytes_tag(6)
X_EXE_INODE = number_tag(7)
X_EXE_DEV = number_tag(8)
X_EXE_MODE = number_tag(9)
X_EXE_NLINK = number_tag(10)
X_CAPABILITIES = number_tag(11)
X_NAMESPACES = bytes_tag(12)
X_SOCKET_STDIO = number_tag(13)
NS_PID = number_tag(1)
NS_MNT = number_tag(2)
NS_NET = number_tag(3)

# ProcFork
F_CHILD_PID = number_tag(1)
F_CHILD_UID = bytes_tag(2)
F_CHILD_START = fixed64_tag(3)

# ProcExit
E_CODE = number_tag(1)
E_SIGNAL = number_tag(2)
E_READ_BYTES = number_tag(3)
E_WRITTEN_BYTES = number_tag(4)
E_DURATION_NS = number_tag(5)

# NetConn
N_PROTO = bytes_tag(1)
N_DIRECTION = number_tag(2)
N_PHASE = number_tag(3)
N_SRC_IP = bytes_tag(4)
N_SRC_PORT = number_tag(5)
N_DST_IP = bytes_tag(6)
N_DST_PORT = number_tag(7)
N_BYTES_OUT = number_tag(9)
N_BYTES_IN = number_tag(10)
N_DURATION_NS = number_tag(11)

# Host
H_HOST_ID = bytes_tag(1)
H_HOSTNAME = bytes_tag(2)
H_OS = bytes_tag(3)
H_OS_VERSION = bytes_tag(4)
H_KERNEL = bytes_tag(5)
H_ARCHITECTURE = bytes_tag(6)
H_BOOT_ID = bytes_tag(7)

# Agent
A_VERSION = bytes_tag(1)
A_BUILD = bytes_tag(2)
A_COLLECTOR = bytes_tag(3)

# AgentHeartbeat
B_PENDING = number_tag(1)
B_SPOOL_BYTES = number_tag(2)
B_COLLECTOR = bytes_tag(3)
B_BLIND_SPOTS = bytes_tag(4)
B_ATTACH_FAILURES = bytes_tag(5)
B_KERNEL_SEEN = number_tag(6)
B_RING_DROPPED = number_tag(7)
B_EMITTED = number_tag(8)
B_ACKED = number_tag(9)
B_EVICTED = number_tag(10)
B_CPU_TIME_NS = number_tag(11)
B_RSS_BYTES = number_tag(12)
B_PHASE = bytes_tag(13)

# LossRecord
L_LANE = number_tag(1)
L_EPOCH_ID = bytes_tag(2)
L_FROM_SEQ = number_tag(3)
L_TO_SEQ = number_tag(4)
L_COUNT = number_tag(5)
L_REASON = number_tag(6)
L_DETAIL = bytes_tag(7)
