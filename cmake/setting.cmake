# setting(NAME default description): NAME as given with -DNAME=..., else in the environment, else the
# default. What the environment says is read at every configure and never cached: a build folder that
# is used again (editable installs do) would hold on to what was said the first time.
function(setting name default description)
  set(${name} "" CACHE STRING "${description}")
  set(value "${${name}}")
  if(value STREQUAL "")
    set(value "$ENV{${name}}")
  endif()
  if(value STREQUAL "")
    set(value "${default}")
  endif()
  set(${name} "${value}" PARENT_SCOPE)
endfunction()
