// Ball of radius 1 about the origin.
SetFactory("OpenCASCADE");
Sphere(1) = {0, 0, 0, 1};
Mesh.MeshSizeMin = 0.35;
Mesh.MeshSizeMax = 0.35;
Mesh.Optimize = 1;
hull() = Boundary{ Volume{1}; };
Physical Surface("boundary") = {hull()};
Physical Volume("domain") = {1};
