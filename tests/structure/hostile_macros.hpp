// SPDX-License-Identifier: MIT
// Names that other people's headers define as macros (complex.h, termios.h, windows.h, sys/sysmacros.h,
// Arduino). A header of ours that uses one of them as a name breaks in their programs; here it breaks in our
// test.
#pragma once

#define I dsv3_must_not_use_this_name @
#define B0 dsv3_must_not_use_this_name @
#define B1 dsv3_must_not_use_this_name @
#define F dsv3_must_not_use_this_name @
#define small dsv3_must_not_use_this_name @
#define near dsv3_must_not_use_this_name @
#define far dsv3_must_not_use_this_name @
#define interface dsv3_must_not_use_this_name @
#define major dsv3_must_not_use_this_name @
#define minor dsv3_must_not_use_this_name @
#define IN dsv3_must_not_use_this_name @
#define OUT dsv3_must_not_use_this_name @
#define ERROR dsv3_must_not_use_this_name @
#define TRUE dsv3_must_not_use_this_name @
#define FALSE dsv3_must_not_use_this_name @
#define DOMAIN dsv3_must_not_use_this_name @
