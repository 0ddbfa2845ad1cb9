/* SPDX-License-Identifier: MIT */
#ifndef MQFS_DB_BOOT_H
#define MQFS_DB_BOOT_H

#define BOOT_ID_BYTES 40

/* This boot's id: a time of mqfs_clock_boottime_ms() means something in one boot only. 0 or a negative errno. */
int boot_id_read(char ret_id[BOOT_ID_BYTES]);

#endif
