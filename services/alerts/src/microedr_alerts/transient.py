"""Which errors of the database pass by themselves."""

import asyncpg

TRANSIENT = (
    OSError,  # refused, reset, no such socket; TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,  # the connection was closed under us
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # shutting down, starting up, cancelled
    asyncpg.InsufficientResourcesError,  # disk full, out of memory, too many connections
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.PostgresSystemError,
    asyncpg.ObjectInUseError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby that is about to be promoted
)
