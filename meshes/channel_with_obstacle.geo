// Channel [0, 2] x [0, 1] x [0, 0.5] without a round pillar of radius 0.2 about the line
// x = 0.8, y = 0.45, from the floor to the ceiling.
SetFactory("OpenCASCADE");
Box(1) = {0, 0, 0, 2, 1, 0.5};
Cylinder(2) = {0.8, 0.45, 0, 0, 0, 0.5, 0.2};
BooleanDifference(3) = { Volume{1}; Delete; }{ Volume{2}; Delete; };
Mesh.MeshSizeMin = 0.16;
Mesh.MeshSizeMax = 0.16;
Mesh.Optimize = 1;
walls() = Boundary{ Volume{3}; };
Physical Surface("walls") = {walls()};
Physical Volume("domain") = {3};
